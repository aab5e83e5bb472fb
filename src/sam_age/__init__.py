"""sam-age: Style-based Age Manipulation (SAM, Alaluf et al. 2021) as a package."""

__version__ = "0.1.0"
