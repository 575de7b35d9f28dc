"""The weighted mean of the models themselves (model soups, arXiv 2203.05482); a base is one more model."""

from pydelta.merging.method import NORMALIZE, WEIGHT, Method

METHOD = Method(name="linear", parameters=(WEIGHT, NORMALIZE.but(True)), needs_base=False)
