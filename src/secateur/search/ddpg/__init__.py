"""The paper's agent."""

from secateur.search.ddpg.agent import DDPG, Agent

__all__ = ["DDPG", "Agent"]
