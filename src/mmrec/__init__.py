"""mmrec: recommendations that people can trust, from what reviews and photos say."""

__version__ = "0.1.0"
