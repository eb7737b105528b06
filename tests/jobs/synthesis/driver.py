"""Runs synthesis in a separate process that a test can kill.

``python -m tests.jobs.synthesis.driver SETTINGS CONSOLIDATION SYNTHESIS_SETTINGS``, settings as JSON.
"""

import json
import sys

from looper.cluster.local_ray import local_ray
from looper.jobs.synthesis.pipeline.run import synthesize
from looper.platform.catalog import Catalog
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import SynthesisSettings, load_settings


def main() -> None:
    settings = load_settings(**json.loads(sys.argv[1]))
    job = Catalog.open(settings).get_consolidation(sys.argv[2])
    with local_ray():
        synthesize([job], ObjectStore.open(settings), 0.2, SynthesisSettings.model_validate_json(sys.argv[3]))


if __name__ == "__main__":
    main()
