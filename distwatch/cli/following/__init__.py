"""Following a run that is being written: what ``distwatch tail`` shows.

``following`` opens the run again and again and sums it up in a `Look`, ``signals`` reads
the last steps, ``pace`` measures how fast they come; ``picture`` and ``sparkline`` draw a
look, ``displays`` says where: on a terminal, as lines, as JSON.
"""

from distwatch.cli.following.displays import display
from distwatch.cli.following.following import Follower, Wanted, follow

__all__ = ["Follower", "Wanted", "display", "follow"]
