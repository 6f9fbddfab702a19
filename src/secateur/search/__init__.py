"""WHICH PLAN TO TRY. Arithmetic only: no network, no data."""

from secateur.search.baselines import RULES, Deep, Random, Shallow, Uniform
from secateur.search.ddpg import DDPG
from secateur.search.episode import FEATURES, Episode
from secateur.search.reward import Reward, resource_constrained
from secateur.search.searcher import Searcher, State, Strategy
from secateur.search.space import SearchSpace, SpaceSettings

__all__ = [
    "DDPG",
    "FEATURES",
    "RULES",
    "Deep",
    "Episode",
    "Random",
    "Reward",
    "SearchSpace",
    "Searcher",
    "Shallow",
    "SpaceSettings",
    "State",
    "Strategy",
    "Uniform",
    "resource_constrained",
]
