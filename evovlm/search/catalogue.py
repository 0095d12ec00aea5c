"""The optimizers there are."""

from collections.abc import Mapping

from evovlm.search.catcma import CatCma
from evovlm.search.cmaes import CmaEs, CmaEsWithMargin
from evovlm.search.optimizer import OptimizerFactory
from evovlm.search.random_search import RandomNearby, RandomSearch

OPTIMIZERS: Mapping[str, OptimizerFactory] = {
    "cma": CmaEs,
    "cma_margin": CmaEsWithMargin,
    "catcma": CatCma,
    "random": RandomSearch,
    "random_nearby": RandomNearby,
}
