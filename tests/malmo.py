"""Replacement for Minecraft with Malmo: a flat world with a few mobs that serves MineDojo's Python side.

    python malmo.py [--ports N] [--bite N] [--lose STEP | --end STEP]

It prints its ports on one line and serves until it is killed. Each connection has a separate world. The messages have
the format of MineDojo's Java source. Tests with it check the adapter, not Minecraft. The rules of the world are simple:

The player starts at x 0.5, y 64, z 0.5, looking south (yaw 0, +z; west is 90). A step moves one block and turns by the
angles given, first the turn. Grass below, air around, one block of wood at (1, 64, 0), so to the east of the start.
Mobs stand still. Attack and use reach the nearest one within 3 blocks and 30 degrees of the line of sight; a mob takes
3 hits, each of which wears what can wear by one. A bucket used on a cow is full of milk, shears used on a sheep leave
wool in slot 1. `--bite` health is lost in each step that begins within 2 blocks of a mob; the dead drop everything and
are back at the start, whole, one step later. The frame is sky over grass, and each mob a bar in its colour.
"""

import argparse
import json
import math
import re
import socket
import struct
import threading
import time

import numpy as np

REACH, ANGLE, HITS = 3.0, 30.0, 3
EYES, TALL, WIDE = 1.62, 2.0, 0.5  # of the player; height and radius of a mob
FOCAL = 0.5 / math.tan(math.radians(35))  # times the frame's height, for a field of view of 70 degrees
SKY, GRASS = (110, 170, 255), (90, 140, 60)
COLOURS = {"spider": (40, 30, 30), "cow": (80, 50, 30), "sheep": (230, 230, 230), "pig": (240, 170, 170)}
CLASSES = {"zombie_pigman": "EntityPigZombie"}
KILLS = {"zombie_pigman": "pig_zombie"}
DURABILITY = {"diamond_sword": 1561, "shears": 238, "shield": 336}
SLOTS = {"weapon.mainhand": 0, "weapon.offhand": 40, "armor.head": 39, "armor.chest": 38, "armor.legs": 37}
SLOTS["armor.feet"] = 36
ACHIEVEMENTS = """
acquire_iron bake_cake blaze_rod bookcase breed_cow build_better_pickaxe build_furnace build_hoe
build_pickaxe build_sword build_work_bench cook_fish diamonds diamonds_to_you enchantments explore_all_biomes fly_pig
full_beacon ghast kill_cow kill_enemy kill_wither make_bread mine_wood on_a_rail open_inventory overkill overpowered
portal potion snipe_skeleton spawn_wither the_end the_end2"""
STATISTICS = """
animals_bred armor_cleaned aviate_one_cm banner_cleaned beacon_interaction boat_one_cm
brewingstand_interaction cake_slices_eaten cauldron_filled cauldron_used chest_opened climb_one_cm
crafting_table_interaction crouch_one_cm damage_dealt damage_taken deaths dispenser_inspected dive_one_cm
dropper_inspected enderchest_opened fall_one_cm fish_caught flower_potted fly_one_cm furnace_interaction
hopper_inspected horse_one_cm item_enchanted items_dropped jump leave_game minecart_one_cm mob_kills noteblock_played
noteblock_tuned pig_one_cm play_one_minute player_kills record_played shulker_box_opened sleep_in_bed sneak_time
sprint_one_cm swim_one_cm talked_to_villager time_since_death traded_with_villager trapped_chest_triggered
walk_one_cm"""
MOBS = ("spider", "cow", "sheep", "pig", "zombie", "enderman", "pig_zombie")


class World:
    """The world of a mission's XML."""

    def __init__(self, xml: str, bite: int) -> None:
        number = r'"(-?[\d.e-]+)"'
        self.height, self.width = (int(re.search(rf"<{side}>(\d+)", xml)[1]) for side in ("Height", "Width"))
        self.rays = [
            tuple(map(float, ray))
            for ray in re.findall(rf"<RayOffset pitch={number} yaw={number} distance={number}", xml)
        ]
        self.grid = re.search(r'<min x="(.+?)" y="(.+?)" z="(.+?)"/>\s*<max x="(.+?)" y="(.+?)" z="(.+?)"/>', xml)
        self.bite, self.mobs, self.kills = bite, [], dict.fromkeys(MOBS, 0)
        self.begin()
        for slot, item in re.findall(r'<InventoryObject\s+slot="(\d+)"\s+type="(\w+)"', xml):
            self.give(int(slot), item)

    def begin(self) -> None:
        self.x, self.z, self.yaw, self.pitch, self.life = 0.5, 0.5, 0.0, 0.0, 20
        self.items = [("air", -1)] * 41

    def give(self, slot: int, item: str) -> None:
        self.items[slot] = (item, DURABILITY.get(item, -1))

    def step(self, lines: list[str]) -> None:
        commands = [line for line in lines if line.startswith("chat ")]
        keys = dict(line.partition(" ")[::2] for line in lines if not line.startswith("chat "))
        if self.life <= 0:
            self.begin()
        self.life -= self.bite * any(math.dist((self.x, self.z), mob[1:3]) <= 2 for mob in self.mobs)
        for line in commands:
            self.command(line.split()[1:])
        pitch, yaw = map(float, keys["camera"].split())
        self.yaw, self.pitch = (self.yaw + yaw + 180) % 360 - 180, max(-90, min(90, self.pitch + pitch))
        self.walk(*(int(keys[one]) - int(keys[other]) for one, other in (("forward", "back"), ("left", "right"))))
        target = self.reached()
        if target and keys["attack"] == "1":
            self.hit(target)
        if target and keys["use"] == "1":
            self.use(target)
        if self.life <= 0:
            self.items = [("air", -1)] * 41

    def walk(self, ahead: int, left: int) -> None:
        south, west = math.cos(math.radians(self.yaw)), math.sin(math.radians(self.yaw))
        self.x += -west * ahead + south * left
        self.z += south * ahead + west * left

    def reached(self) -> list | None:
        near = [mob for mob in self.mobs if self.distance(mob) <= REACH and abs(self.bearing(mob)) <= ANGLE]
        return min(near, key=self.distance, default=None)

    def hit(self, mob: list) -> None:
        name, durability = self.items[0]
        self.items[0] = (name, durability - 1) if durability > 1 else self.items[0] if durability < 0 else ("air", -1)
        mob[3] -= 1
        if mob[3] == 0:
            self.mobs.remove(mob)
            self.kills[KILLS.get(mob[0], mob[0])] += 1

    def use(self, mob: list) -> None:
        held = self.items[0][0]
        if (held, mob[0]) == ("bucket", "cow"):
            self.give(0, "milk_bucket")
        if (held, mob[0]) == ("shears", "sheep"):
            self.give(1, "wool")

    def command(self, words: list[str]) -> None:
        if words[0] == "/summon":
            east, south = (int(words[2].strip("~") or 0), int(words[4].strip("~") or 0))
            self.mobs.append([words[1], self.x + east, self.z + south, HITS])
        elif words[0] == "/kill" and len(words) == 1:
            self.begin()
        elif words[0] == "/kill" and "!player" in words[1]:
            self.mobs.clear()
        elif words[0] == "/clear":
            self.items = [("air", -1)] * 41
        elif words[0] == "/replaceitem":
            self.give(SLOTS[words[3].removeprefix("slot.")], words[4].removeprefix("minecraft:"))

    def distance(self, mob: list) -> float:
        return math.dist((self.x, self.z), mob[1:3])

    def bearing(self, mob: list) -> float:
        """Degrees to the right of the line of sight."""
        degrees = math.degrees(math.atan2(self.x - mob[1], mob[2] - self.z)) - self.yaw
        return (degrees + 180) % 360 - 180

    def frame(self) -> np.ndarray:
        """uint8 [H, W, 3], top row first; knows no pitch."""
        image = np.empty((self.height, self.width, 3), np.uint8)
        image[: self.height // 2], image[self.height // 2 :] = SKY, GRASS
        for mob in sorted(self.mobs, key=self.distance, reverse=True):
            if abs(self.bearing(mob)) < 80 and self.distance(mob) > 0:
                left, right, top, bottom = self.bar(mob)
                image[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = COLOURS.get(mob[0], (200, 0, 200))
        return image

    def bar(self, mob: list) -> tuple[int, int, int, int]:
        angle = math.radians(self.bearing(mob))
        depth, focal = self.distance(mob) * math.cos(angle), FOCAL * self.height
        middle = self.width / 2 + focal * math.tan(angle)
        edges = (middle - focal * WIDE / depth, middle + focal * WIDE / depth)
        levels = (self.height / 2 - focal * (TALL - EYES) / depth, self.height / 2 + focal * EYES / depth)
        return tuple(round(edge) for edge in (*edges, *levels))

    def ray(self, pitch: float, yaw: float, reach: float) -> list:
        """The 16 values of a ray: Malmo turns it about the world's x axis, then about y."""
        mine, nod = math.radians(self.yaw), math.radians(self.pitch)
        x, y, z = -math.sin(mine) * math.cos(nod), -math.sin(nod), math.cos(mine) * math.cos(nod)
        y, z = y * math.cos(pitch) + z * math.sin(pitch), z * math.cos(pitch) - y * math.sin(pitch)
        x, z = x * math.cos(yaw) + z * math.sin(yaw), z * math.cos(yaw) - x * math.sin(yaw)
        level = math.hypot(x, z)
        ground = -EYES / y if y < 0 else reach
        name, distance = "null", min(ground, reach)
        for mob in self.mobs:
            along = ((mob[1] - self.x) * x + (mob[2] - self.z) * z) / max(level, 1e-9)
            beside = abs((mob[1] - self.x) * z - (mob[2] - self.z) * x) / max(level, 1e-9)
            height = EYES + along * y / max(level, 1e-9)
            if along > 0 and beside <= WIDE and 0 <= height <= TALL and along / level < distance:
                name, distance = CLASSES.get(mob[0], f"Entity{mob[0].capitalize()}"), along / level
        block = "grass block" if y < 0 else "air"
        return [block, ground, 0, 0, True, True, False, True, False, name, distance, pitch, yaw, 0, 0, 0]

    def voxels(self) -> list:
        """Ten values of each block of the grid, x running fastest, then y, then z."""
        x0, y0, z0, x1, y1, z1 = map(int, self.grid.groups())
        values = []
        for z in range(z0, z1 + 1):
            for y in range(y0, y1 + 1):
                for x in range(x0, x1 + 1):
                    here = (math.floor(self.x) + x, 64 + y, math.floor(self.z) + z)
                    name = "wood" if here == (1, 64, 0) else "grass block" if y < 0 else "air"
                    solid = name != "air"
                    values += [name, 0, solid, True, solid, False, solid, False, solid, 0.0]
        return values

    def info(self) -> dict:
        values = {
            **{"xpos": self.x, "ypos": 64.0, "zpos": self.z, "yaw": self.yaw, "pitch": self.pitch, "life": self.life},
            **{"food": 20, "air": 300, "armor": 0, "saturation": 5.0, "xp": 0, "is_sleeping": False, "is_alive": True},
            **{"sun_brightness": 0.9, "sky_light_level": 0.7, "light_level": 15, "can_see_sky": 1, "is_raining": 0},
            **{"biome_rainfall": 0.4, "biome_temperature": 0.8, "biome_id": 129, "sea_level": 63},
            **{"nearby_crafting_table": False, "nearby_furnace": False},
            "stat": {**dict.fromkeys(STATISTICS.split(), 0), "kill_entity": self.kills, "use_item": {"minecraft": {}}},
            "achievement": dict.fromkeys(ACHIEVEMENTS.split(), 0),
            "inventory": [
                {
                    **{"index": slot, "inventory": "inventory", "name": name, "variant": 0},
                    **{"quantity": int(name != "air"), "max_durability": DURABILITY.get(name, -1)},
                    "cur_durability": durability,
                }
                for slot, (name, durability) in enumerate(self.items)
            ],
        }
        values["rays"] = [value for ray in self.rays for value in self.ray(*ray)]
        return values | ({"voxels": self.voxels()} if self.grid else {})


def receive(connection: socket.socket) -> str:
    def exactly(count: int) -> bytes:
        data = connection.recv(count, socket.MSG_WAITALL)
        if len(data) < count:
            raise EOFError
        return data

    return exactly(*struct.unpack("!I", exactly(4))).decode()


def send(connection: socket.socket, *parts: bytes) -> None:
    connection.sendall(b"".join(struct.pack("!I", len(part)) + part for part in parts))


def serve(connection: socket.socket, options: argparse.Namespace) -> None:
    """Serve a connection until it ends. The steps of a mission are counted from 1."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    world, steps = None, 0
    while True:
        message = receive(connection)
        if message.startswith("<Quit"):
            send(connection, struct.pack("!I", 1))
        elif message.startswith("<MissionInit") or "<Mission" in message:
            receive(connection)  # its token
            world, steps = World(message, options.bite), 0
            send(connection, struct.pack("!I", 1))
        elif message.startswith("<Peek"):
            send(connection, world.frame()[::-1].tobytes(), json.dumps(world.info()).encode(), struct.pack("!b", 0))
        elif message.startswith("<StepClient"):
            steps += 1
            if steps == options.lose:
                return connection.close()
            world.step(re.search(r">(.*)<", message, re.DOTALL)[1].split("\n"))
            print(message, file=options.log, flush=True)
            done = struct.pack("!dbb", 0.0, steps == options.end, 1)
            send(connection, world.frame()[::-1].tobytes(), done, json.dumps(world.info()).encode())
        elif message.startswith("<Disconnect"):
            return connection.close()


def listen(server: socket.socket, options: argparse.Namespace) -> None:
    def one(connection: socket.socket) -> None:
        try:
            serve(connection, options)
        except (EOFError, ConnectionError):
            connection.close()

    while True:
        threading.Thread(target=one, args=(server.accept()[0],), daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser()
    for option, default in (("ports", 1), ("bite", 0), ("lose", 0), ("end", 0)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--log", type=argparse.FileType("w"), default="/dev/null")  # the messages of all steps
    options = parser.parse_args()
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(options.ports)]
    for server in servers:
        threading.Thread(target=listen, args=(server, options), daemon=True).start()
    print(*(server.getsockname()[1] for server in servers), flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
