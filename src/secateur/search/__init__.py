"""WHICH PLAN TO TRY. Arithmetic only: no network, no data."""

from secateur.search.baselines import RULES, Deep, Random, Shallow, Uniform, apply_rule
from secateur.search.bayesian import Bayesian
from secateur.search.ddpg import DDPG
from secateur.search.episode import FEATURES, Episode
from secateur.search.evolution import Evolution
from secateur.search.knapsack import Knapsack
from secateur.search.optuna import CMAES, TPE
from secateur.search.reward import AccuracyGuaranteed, Composite, Reward, resource_constrained
from secateur.search.searcher import Conditioned, Searcher, State, Strategy
from secateur.search.space import SearchSpace, SpaceSettings

__all__ = [
    "CMAES",
    "DDPG",
    "FEATURES",
    "RULES",
    "TPE",
    "AccuracyGuaranteed",
    "Bayesian",
    "Composite",
    "Conditioned",
    "Deep",
    "Episode",
    "Evolution",
    "Knapsack",
    "Random",
    "Reward",
    "SearchSpace",
    "Searcher",
    "Shallow",
    "SpaceSettings",
    "State",
    "Strategy",
    "Uniform",
    "apply_rule",
    "resource_constrained",
]
