"""Training: a loop for one model on one or many processes, ensembles as one batch, sweeps."""

from enough.training import distributed
from enough.training.checkpoint import load_checkpoint, save_checkpoint
from enough.training.chunk_training import EarlyStopping
from enough.training.ensemble import Ensemble
from enough.training.history import History
from enough.training.interrupts import TrainingInterrupted
from enough.training.loop import StepReport, fit
from enough.training.schedules import Schedule, constant, cosine, linear, multi_step, power, wsd
from enough.training.sweep import Sweep, SweepError
from enough.training.sweep_store import SweepStoreError

__all__ = [
    "EarlyStopping",
    "Ensemble",
    "History",
    "Schedule",
    "StepReport",
    "Sweep",
    "SweepError",
    "SweepStoreError",
    "TrainingInterrupted",
    "constant",
    "cosine",
    "distributed",
    "fit",
    "linear",
    "load_checkpoint",
    "multi_step",
    "power",
    "save_checkpoint",
    "wsd",
]
