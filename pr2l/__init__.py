"""pr2l: a frozen, prompted vision-language model as the eyes of a reinforcement learner."""

__version__ = "0.1.0"

from pr2l.rollout import gymnasium_ids

gymnasium_ids.install()  # gymnasium.make("pr2l/doom-fetch-v0")
