"""The optimizers there are."""

from collections.abc import Mapping

from evovlm.search.cmaes import CmaEs
from evovlm.search.optimizer import OptimizerFactory
from evovlm.search.random_search import RandomSearch

OPTIMIZERS: Mapping[str, OptimizerFactory] = {"cma": CmaEs, "random": RandomSearch}
