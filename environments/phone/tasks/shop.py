"""Tasks in the app Shop."""

from __future__ import annotations

from random import Random

from ..generate import add
from ..state import Document
from ..static_data import static_data
from ..template import Parameters, Template
from ..user import Actions, User


def products(store: str) -> list[Document]:
    """Return the products of a store in the order of its list."""
    return [product for product in static_data("products") if product["store"] == store]


def open_product(user: User, name: str) -> Actions:
    """Open the page of a product."""
    yield from user.open("Shop")
    yield from user.type("Shop/Search", name)
    yield from user.tap(f"Shop/{name}")


class ProductTask(Template):
    """Task about a random product."""

    apps = ("Shop",)
    complexity = 1.4

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return dict(rng.choice(products("Shop")))


class ShopAddToCart(ProductTask):
    """Put a product into the cart."""

    text = "Add the {name} to the cart in the app Shop"

    def solve(self, state: Document) -> None:
        state["shops"]["cart"].append({"product_id": self.params["id"], "quantity": 1})

    def script(self, user: User) -> Actions:
        yield from open_product(user, self.params["name"])
        yield from user.tap("Shop/Add to cart")


class ShopAddToWishlist(ProductTask):
    """Put a product on the wishlist."""

    text = "Add the {name} to the wishlist in the app Shop"

    def prepare(self, state: Document, rng: Random) -> Parameters:
        wishes = state["shops"]["wishlist"]
        return dict(rng.choice([product for product in products("Shop") if product["id"] not in wishes]))

    def solve(self, state: Document) -> None:
        state["shops"]["wishlist"].append(self.params["id"])

    def script(self, user: User) -> Actions:
        yield from open_product(user, self.params["name"])
        yield from user.tap("Shop/Wishlist")


class ShopOrder(ProductTask):
    """Order a product."""

    text = "Order one {name} in the app Shop"
    complexity = 2.0

    def solve(self, state: Document) -> None:
        items = [{"product_id": self.params["id"], "quantity": 1}]
        state["shops"]["orders"].append({"id": "o1", "items": items, "total": self.params["price"]})

    def script(self, user: User) -> Actions:
        yield from open_product(user, self.params["name"])
        yield from user.tap("Shop/Add to cart")
        yield from user.tap("Shop/Open cart")
        yield from user.tap("Shop/Checkout")
        yield from user.tap("Shop/dialog/Order")


class ShopRemoveFromCart(Template):
    """Take a product out of the cart."""

    text = "Remove the {name} from the cart in the app Shop"
    apps = ("Shop",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        chosen = rng.sample(products("Shop"), 3)
        state["shops"]["cart"] = [{"product_id": product["id"], "quantity": 1} for product in chosen]
        return dict(chosen[0]) if rng.random() < 0.5 else dict(chosen[1])

    def solve(self, state: Document) -> None:
        shops = state["shops"]
        shops["cart"] = [row for row in shops["cart"] if row["product_id"] != self.params["id"]]

    def script(self, user: User) -> Actions:
        yield from user.open("Shop")
        yield from user.tap("Shop/Cart")
        yield from user.tap(f"Shop/Less {self.params['name']}")


class ShopPriceOf(ProductTask):
    """Answer with the price of a product."""

    text = "How many dollars does the {name} cost in the app Shop?"

    @property
    def answer(self) -> str:
        return f"{self.params['price'] / 100:.2f}"

    def script(self, user: User) -> Actions:
        yield from open_product(user, self.params["name"])


class ShopTotalOfOrder(Template):
    """Answer with the total of an order."""

    text = "What is the total of order {number} in the app Shop, in dollars?"
    apps = ("Shop",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        for product in rng.sample(products("Shop"), 3):
            items = [{"product_id": product["id"], "quantity": rng.randint(1, 3)}]
            add(state["shops"], "orders", items=items, total=items[0]["quantity"] * product["price"])
        order = rng.choice(state["shops"]["orders"])
        return {"number": order["id"][1:], "total": order["total"]}

    @property
    def answer(self) -> str:
        return f"{self.params['total'] / 100:.2f}"

    def script(self, user: User) -> Actions:
        yield from user.open("Shop")
        yield from user.tap("Shop/Orders")
        yield from user.tap(f"Shop/Order {self.params['number']}")
