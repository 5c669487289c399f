"""The whole service as `slm-authz serve` runs it; `--no-audit` drains its events into nothing, to see what recording them costs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from slm_authz.app import Service
from slm_authz.audit.recorder import Recorder


class Unrecorded(Service):
    def _recorder(self, *_: Any, **__: Any) -> Recorder:
        return Recorder(self.counters, [], drop=True, dropped=lambda _: None)


kind = Unrecorded if "--no-audit" in sys.argv else Service
sys.exit(kind(Path(sys.argv[1]), os.environ).run())
