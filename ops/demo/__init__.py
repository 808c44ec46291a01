"""The demo: a hotel under load, processes killed meanwhile, and the proof that nothing was lost."""

from ops.demo.hotel import SAMPLE, Hotel, load_hotel
from ops.demo.run import Outcome, run_demo

__all__ = ["SAMPLE", "Hotel", "Outcome", "load_hotel", "run_demo"]
