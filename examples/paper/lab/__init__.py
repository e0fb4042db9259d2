"""What the experiments share: options, data sets, models with their recipes, cells, pictures."""

from lab.bench import Lab, parse
from lab.measure import codes, evaluated, probe
from lab.pictures import COLOURS, LABELS, figure, finish
from lab.sets import Samples, load
from lab.zoo import FAMILIES, trained

__all__ = [
    "COLOURS",
    "FAMILIES",
    "LABELS",
    "Lab",
    "Samples",
    "codes",
    "evaluated",
    "figure",
    "finish",
    "load",
    "parse",
    "probe",
    "trained",
]
