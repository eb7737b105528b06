"""The servers under load: Looper and its peers, and the processes they run in."""
