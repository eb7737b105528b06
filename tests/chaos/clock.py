"""Moves the clock of every second process: a library that is loaded before libc adds an offset to the time of day.

The offset is in a file that all processes map. Only the time of day moves, as it does on a machine with a wrong clock.
"""

import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int32_t *shared;  /* offset in seconds; which processes: odd ids (1), even ids (0), all (2) */
static int (*libc_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void start(void) {
  libc_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
  const char *path = getenv("CHAOS_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *mapped = mmap(NULL, 8, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (mapped != MAP_FAILED) shared = mapped;
}

static int32_t offset(void) {
  return shared && (shared[1] == 2 || getpid() % 2 == shared[1]) ? shared[0] : 0;
}

int clock_gettime(clockid_t id, struct timespec *at) {
  if (!libc_clock_gettime) start();
  int result = libc_clock_gettime(id, at);
  if (!result && id == CLOCK_REALTIME) at->tv_sec += offset();
  return result;
}

int gettimeofday(struct timeval *at, void *zone) {
  (void)zone;
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
"""


class MovableClock:
    """The clock of the processes that run with ``environment``."""

    def __init__(self, folder: Path) -> None:
        """Compile the library. Without a C compiler, ``environment`` is empty."""
        self._file = folder / "clock-offset"
        self._file.write_bytes(bytes(8))
        self.environment: dict[str, str] = {}
        compiler = shutil.which("cc")
        if compiler:
            source, library = folder / "clock.c", folder / "clock.so"
            source.write_text(SOURCE)
            subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
            self.environment = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(self._file)}

    def move(self, seconds: int, parity: int = 2) -> None:
        """Move the clock of all processes, or of those whose id modulo 2 is ``parity``."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("=ii", seconds, parity))
