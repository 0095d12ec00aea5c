"""The table of optimizers."""

from collections.abc import Mapping

from evovlm.plugins import PluginTable
from evovlm.search.catcma import CatCma
from evovlm.search.cmaes import CmaEs, CmaEsSeparable, CmaEsWithMargin
from evovlm.search.m2n2 import M2n2
from evovlm.search.nsga2 import Nsga2
from evovlm.search.optimizer import OptimizerFactory
from evovlm.search.random_search import RandomNearby, RandomSearch
from evovlm.search.restarts import CmaEsBipop, CmaEsIpop

_OWN: Mapping[str, OptimizerFactory] = {
    "cma": CmaEs,
    "cma_separable": CmaEsSeparable,
    "cma_ipop": CmaEsIpop,
    "cma_bipop": CmaEsBipop,
    "cma_margin": CmaEsWithMargin,
    "catcma": CatCma,
    "nsga2": Nsga2,
    "m2n2": M2n2,
    "random": RandomSearch,
    "random_nearby": RandomNearby,
}
OPTIMIZERS: Mapping[str, OptimizerFactory] = PluginTable("evovlm.optimizers", _OWN, row_type=OptimizerFactory)  # type: ignore[type-abstract]
