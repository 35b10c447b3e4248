"""Minecraft's tasks as data, read by both interpreters: Python 3.9, no imports but the standard library.

The six of PR2L, which names them but not their worlds. Mobs, inventory, spawn range, biome, seed and reward weights
are those of the two environments that MineCLIP published (spider, and a zoo of cow, pig and sheep); biomes of the End
and the Nether those of MineDojo's own `combat_enderman_end_*` and `combat_zombie_pigman_nether_*`. A task counts as
done by MineDojo's rule: a kill in the player's statistics, or the item in the inventory.
"""

from __future__ import annotations

from dataclasses import dataclass

HORIZON = 500  # steps, of MineCLIP's environments; MineDojo itself has no time limit
SPAWN_RANGE = 7  # blocks to each side of the player, int(10 / sqrt 2): within 10 blocks

ARMOURED = {
    "mainhand": "diamond_sword",
    "feet": "diamond_boots",
    "legs": "diamond_leggings",
    "chest": "diamond_chestplate",
    "head": "diamond_helmet",
    "offhand": "shield",
}


@dataclass(frozen=True)
class Task:
    """A row of TASKS.

    meta: MineDojo's meta task; goal: what it counts, kills of a mob (combat) or an item in the inventory (harvest);
    seen: the target's name in the lidar; inventory: slot -> item; mobs: summoned around the player, by their names in
    commands; biome: of the whole world; night: for ever; *_reward: weights of MineDojo's own reward (1 for the goal)
    and of the shaped ones (see _minecraft_rewards.py); contexts: every context that an episode can have.
    """

    id: str
    meta: str
    goal: str
    seen: str
    inventory: dict[str, str]
    mobs: tuple[str, ...]
    biome: str
    night: bool
    success_reward: float
    attack_reward: float
    approach_reward: float
    reward: str
    success: str
    contexts: tuple[dict[str, str], ...]
    prompt: str = "present"  # default variant
    horizon: int = HORIZON


def _combat(mob: str, *, biome: str, night: bool, seen: str = "") -> Task:
    name = mob.replace("_", " ")
    return Task(
        id=f"combat_{mob}",
        meta="combat",
        goal=mob,
        seen=seen or mob,
        inventory=ARMOURED,
        mobs=(mob,),
        biome=biome,
        night=night,
        success_reward=10.0,
        attack_reward=1.0,
        approach_reward=0.0,
        reward=f"10 for killing the {name}, 1 for each hit (seen in the sword's wear)",
        success=f"the {name} is killed",
        contexts=({"target": name},),
    )


def _animal(verb: str, mob: str, *, goal: str, tool: str, done: str) -> Task:
    return Task(
        id=f"{verb}_{mob}",
        meta="harvest",
        goal=goal,
        seen=mob,
        inventory={"mainhand": tool},
        mobs=("cow", "pig", "sheep"),
        biome="sunflower_plains",
        night=False,
        success_reward=10.0,
        attack_reward=0.0,
        approach_reward=0.1,
        reward=f"10 when {done}, 0.1 for each block by which the nearest {mob} in sight comes nearer than ever",
        success=done,
        contexts=({"target": mob},),
    )


_ROWS = (
    _combat("spider", biome="sunflower_plains", night=True),
    _animal("milk", "cow", goal="milk_bucket", tool="bucket", done="the bucket is full of milk"),
    _animal("shear", "sheep", goal="wool", tool="shears", done="wool is in the inventory"),
    _combat("zombie", biome="sunflower_plains", night=True),
    _combat("enderman", biome="the_end", night=False),
    _combat("zombie_pigman", biome="nether", night=False, seen="pigzombie"),
)
TASKS: dict[str, Task] = {task.id: task for task in _ROWS}
