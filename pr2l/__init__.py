"""pr2l: a frozen, prompted vision-language model as the eyes of a reinforcement learner."""

__version__ = "0.1.0"
