"""The tasks of the Doom environment: rewards, success rules, actions and maps."""

from __future__ import annotations

from dataclasses import dataclass

from .maps import ITEMS, MONSTERS
from .rewards import Reward, Rule, death, defeating, each_decision, each_tic, points, reaching

# ViZDoom actor name -> common name of its sprite; the sprites are Freedoom's, not Doom's.
WORDS: dict[str, str] = {
    "Medikit": "medikit",
    "GreenArmor": "green armor",
    "BlueArmor": "red armor",
    "Soulsphere": "gold mask",
    "BlueTorch": "blue torch",
    "RedTorch": "red torch",
    "TallGreenColumn": "green column",
    "Candelabra": "candelabra",
    "Zombieman": "zombie",
    "DoomImp": "imp",
    "Demon": "demon",
    "Cacodemon": "cacodemon",
    "HellKnight": "hell knight",
    "MarineChainsawVzd": "marine",
    "DoomImpBall": "fireball",
}


@dataclass(frozen=True)
class Task:
    """Row of TASKS: the reward, the success rule, the actions and the map of a task.

    `horizon` is in decisions; `contexts` lists all contexts that can occur.
    """

    rewards: tuple[Reward, ...]
    reward: str
    horizon: int
    succeeded: Rule
    success: str
    contexts: tuple[dict[str, str], ...]
    actors: tuple[str, ...]  # ViZDoom names of the actors that can occur in labels
    actions: tuple[tuple[str, ...], ...]  # the buttons that each action holds
    wad: str = ""  # file of a ViZDoom scenario; "" = generated rooms
    prompt: str = "where"  # default variant
    ends: Rule = lambda step: False  # besides death and leaving the map
    skill: int = 3  # ViZDoom's difficulty, 1 to 5
    first_tic: int = 1  # game tics skipped at the start, until objects have come to rest
    weapon: bool = True  # draw the player's weapon
    apart: int = 0  # generated rooms: smallest angle in degrees between two objects, seen from the start


def _targets(*actors: str) -> tuple[dict[str, str], ...]:
    return tuple({"target": WORDS[actor]} for actor in actors)


TURN_AND_SHOOT = (("TURN_LEFT",), ("TURN_RIGHT",), ("ATTACK",))
TURN_AND_WALK = (("TURN_LEFT",), ("TURN_RIGHT",), ("MOVE_FORWARD",))

TASKS: dict[str, Task] = {
    "fetch": Task(
        rewards=(reaching(target=1.0, other=-0.5), each_decision(-0.01)),
        reward="+1 for reaching the named object, -0.5 for reaching another, -0.01 per decision",
        horizon=60,
        succeeded=lambda step: step.reached == step.target,
        success="the first object reached is of the named kind",
        ends=lambda step: bool(step.reached),
        contexts=_targets(*ITEMS),
        actors=tuple(ITEMS),
        actions=TURN_AND_WALK,
        skill=1,
        weapon=False,
    ),
    "hunt": Task(
        rewards=(defeating(target=1.0, other=-0.5), each_decision(-0.01)),
        reward="+1 for defeating the named monster, -0.5 for defeating another, -0.01 per decision",
        horizon=60,
        succeeded=lambda step: step.all_defeated == (step.target,),
        success="the named monster is defeated before any other",
        ends=lambda step: step.target in step.all_defeated,
        contexts=_targets(*MONSTERS),
        actors=tuple(MONSTERS),
        actions=TURN_AND_SHOOT,
        skill=1,
        first_tic=10,
        apart=30,
    ),
    "basic": Task(
        wad="basic.wad",
        rewards=(points(0.01), each_tic(-0.01)),
        reward="+1.06 for defeating the cacodemon, -0.05 per shot, -0.01 per tic (the scenario's, over 100)",
        horizon=75,
        succeeded=lambda step: step.exited,
        success="the cacodemon is defeated",
        contexts=_targets("Cacodemon"),
        actors=("Cacodemon",),
        actions=(("MOVE_LEFT",), ("MOVE_RIGHT",), ("ATTACK",)),
        skill=5,
        first_tic=14,
    ),
    "defend_the_center": Task(
        wad="defend_the_center.wad",
        rewards=(points(), death(-1.0)),
        reward="+1 for each monster defeated, -1 for dying",
        horizon=525,
        succeeded=lambda step: step.total_points >= 10,
        success="10 monsters are defeated",
        contexts=_targets("Demon"),
        actors=("Demon", "MarineChainsawVzd"),
        actions=TURN_AND_SHOOT,
        first_tic=10,
    ),
    "health_gathering": Task(
        wad="health_gathering.wad",
        rewards=(each_tic(0.01), death(-1.0)),
        reward="+0.01 per tic alive on the acid floor, -1 for dying (the scenario's reward divided by 100)",
        horizon=525,
        succeeded=lambda step: step.last and not step.died,
        success="alive at the horizon",
        contexts=_targets("Medikit"),
        actors=("Medikit",),
        actions=TURN_AND_WALK,
    ),
    "my_way_home": Task(
        wad="my_way_home.wad",
        rewards=(points(), each_tic(-0.0001)),
        reward="+1 for reaching the green armor, -0.0001 per tic",
        horizon=525,
        succeeded=lambda step: step.exited,
        success="the green armor is reached",
        contexts=_targets("GreenArmor"),
        actors=("GreenArmor",),
        actions=TURN_AND_WALK,
        skill=5,
        first_tic=10,
    ),
    "take_cover": Task(
        wad="take_cover.wad",
        rewards=(each_tic(0.01),),
        reward="+0.01 per tic alive under fire (the scenario's reward divided by 100)",
        horizon=200,
        succeeded=lambda step: step.last and not step.died,
        success="alive at the horizon",
        contexts=_targets("DoomImpBall"),
        actors=("DoomImp", "DoomImpBall"),
        actions=(("MOVE_LEFT",), ("MOVE_RIGHT",)),
        skill=4,
    ),
}
