"""Minecraft's tasks as data, for both interpreters: Python 3.9, imports of the standard library only.

The PR2L paper names its six tasks but does not describe their worlds. Mobs, inventory, spawn range, biome, seed and
reward weights come from the two environments that MineCLIP published (spider, and a zoo of cow, pig and sheep). The
biomes of enderman and pigman come from MineDojo's `combat_enderman_end_*` and `combat_zombie_pigman_nether_*`. Success
is MineDojo's rule: a kill in the player's statistics, or the item in the inventory.
"""

from __future__ import annotations

from dataclasses import dataclass

HORIZON = 500  # steps, as in MineCLIP's environments; MineDojo has no time limit
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
    """Row of TASKS: the world, the rewards and the success rule of a task."""

    meta: str  # MineDojo's meta task
    goal: str  # a mob to kill (combat), or an item to have in the inventory (harvest)
    lidar_name: str  # the target's name in the lidar
    inventory: dict[str, str]  # slot -> item
    mobs: tuple[str, ...]  # summoned around the player, by their names in commands
    biome: str  # of the whole world
    night: bool  # whether it is always night
    success_reward: float  # weight of MineDojo's reward, which is 1 for the goal
    attack_reward: float  # weight of a hit, see rewards.py
    approach_reward: float  # weight per block of approach, see rewards.py
    reward: str
    success: str
    contexts: tuple[dict[str, str], ...]  # all contexts that can occur
    prompt: str = "present"  # default variant
    horizon: int = HORIZON


def _combat(mob: str, *, biome: str, night: bool, lidar_name: str = "") -> Task:
    name = mob.replace("_", " ")
    return Task(
        meta="combat",
        goal=mob,
        lidar_name=lidar_name or mob,
        inventory=ARMOURED,
        mobs=(mob,),
        biome=biome,
        night=night,
        success_reward=10.0,
        attack_reward=1.0,
        approach_reward=0.0,
        reward=f"10 for killing the {name}, 1 for each hit (detected as wear of the sword)",
        success=f"the {name} is killed",
        contexts=({"target": name},),
    )


def _animal(mob: str, *, goal: str, tool: str, done: str) -> Task:
    return Task(
        meta="harvest",
        goal=goal,
        lidar_name=mob,
        inventory={"mainhand": tool},
        mobs=("cow", "pig", "sheep"),
        biome="sunflower_plains",
        night=False,
        success_reward=10.0,
        attack_reward=0.0,
        approach_reward=0.1,
        reward=f"10 when {done}, 0.1 for each block by which the smallest distance to a visible {mob} decreases",
        success=done,
        contexts=({"target": mob},),
    )


OTHER = "other"  # the task whose option `task_id` names any task of MineDojo
TASKS: dict[str, Task] = {
    "combat_spider": _combat("spider", biome="sunflower_plains", night=True),
    "milk_cow": _animal("cow", goal="milk_bucket", tool="bucket", done="the bucket is full of milk"),
    "shear_sheep": _animal("sheep", goal="wool", tool="shears", done="wool is in the inventory"),
    "combat_zombie": _combat("zombie", biome="sunflower_plains", night=True),
    "combat_enderman": _combat("enderman", biome="the_end", night=False),
    "combat_zombie_pigman": _combat("zombie_pigman", biome="nether", night=False, lidar_name="pigzombie"),
    "other": Task(
        meta="",
        goal="",
        lidar_name="",
        inventory={},
        mobs=(),
        biome="",
        night=False,
        success_reward=1.0,
        attack_reward=0.0,
        approach_reward=0.0,
        reward="MineDojo's reward for environment_options.task_id: 1 for the goal",
        success="MineDojo's success rule for environment_options.task_id",
        contexts=({},),
        prompt="describe",
    ),
}
PAPER_TASKS = {name: task for name, task in TASKS.items() if name != OTHER}
