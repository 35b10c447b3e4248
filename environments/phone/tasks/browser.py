"""Tasks in the app Browser: the two shops, as in Android-in-the-Wild's web shopping, forms and bookmarks."""

from __future__ import annotations

from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .. import words
from ..state import Document
from ..static_data import static_data
from ..template import Parameters, Template
from ..user import Actions, User
from .shop import products

STORES = {"megamart.web": "Megamart", "nutshellbooks.web": "Nutshell Books"}


def open_site(user: User, url: str) -> Actions:
    """Type an address into the browser."""
    yield from user.open("Browser")
    yield from user.enter("Browser/Address", url)


def page_of(state: Document) -> tuple[str, str, dict[str, str]]:
    """Return the page in the browser: host, path and query, all empty if another app is open."""
    url = state["browser"]["url"] if state["screen"]["app"] == "Browser" else None
    parts = urlsplit(f"//{url or ''}")
    return parts.netloc.lower(), parts.path.strip("/"), {key: value[0] for key, value in parse_qs(parts.query).items()}


def show(state: Document, url: str) -> None:
    """Open a page of the browser in a state."""
    state["screen"]["app"] = "Browser"
    state["browser"]["url"] = url


def search_result(site: str, query: str) -> list[Document]:
    """Return the products that a shop finds, in its order: as `web.ranked` in web/core/sites.js."""
    rows = products(STORES[site])
    scores = [score(query, row["name"], row.get("author", ""), row["category"]) for row in rows]
    ranked = sorted(zip(scores, rows, strict=True), key=lambda pair: -pair[0])
    return [row for points, row in ranked if points]


def score(query: str, *texts: str) -> int:
    """Return how well texts fit the words of a query, the first text counting most; 0 if a word is in none of them."""
    weights = [(text.lower(), len(texts) - at) for at, text in enumerate(texts)]
    points = [max(weight * (word in text) for text, weight in weights) for word in query.lower().split()]
    return sum(points) if all(points) else 0


class ShopSearchTask(Template):
    """Task to search for a product in one of the shops of the web; the words may fit several products."""

    apps = ("Browser",)
    family = "webshop"

    def prepare(self, state: Document, rng: Random) -> Parameters:
        site = rng.choice(sorted(STORES))
        name = str(rng.choice(products(STORES[site]))["name"]).lower()
        query = name if rng.random() < 0.5 else name.split()[-1]
        return {"site": site, "query": query, "first": search_result(site, query)[0]}

    def search(self, user: User) -> Actions:
        """Search for the product."""
        yield from open_site(user, self.params["site"])
        yield from user.enter("Browser/Site search", self.params["query"])


class WebShopGoTo(Template):
    """Open a web site by its address."""

    text = "Go to {site}"
    apps = ("Browser",)
    family = "webshop"

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {"site": rng.choice([site["url"] for site in static_data("sites")])}

    def solve(self, state: Document) -> None:
        show(state, self.params["site"])

    def reached(self, state: Document) -> bool:
        return page_of(state) == (self.params["site"], "", {})

    def script(self, user: User) -> Actions:
        yield from open_site(user, self.params["site"])


class WebShopSearch(ShopSearchTask):
    """Search in a shop."""

    text = 'Go to {site}, search for "{query}"'

    def solve(self, state: Document) -> None:
        show(state, f"{self.params['site']}/search?q={self.params['query']}")

    def reached(self, state: Document) -> bool:
        host, path, query = page_of(state)
        return (host, path) == (self.params["site"], "search") and query.get("q", "").lower() == self.params["query"]

    def script(self, user: User) -> Actions:
        yield from self.search(user)


class WebShopOpenFirst(ShopSearchTask):
    """Search in a shop and open the first entry."""

    text = 'Go to {site}, search for "{query}", and select the first entry'
    complexity = 1.2

    def solve(self, state: Document) -> None:
        show(state, f"{self.params['site']}/product/{self.params['first']['id']}")

    def reached(self, state: Document) -> bool:
        return page_of(state) == (self.params["site"], f"product/{self.params['first']['id']}", {})

    def script(self, user: User) -> Actions:
        yield from self.search(user)
        yield from user.tap(f"Browser/{self.params['first']['name']}")


class WebShopAddFirstToCart(ShopSearchTask):
    """Search in a shop and put the first entry into the cart."""

    text = 'Go to {site}, search for "{query}", and add the first entry to the cart'
    complexity = 1.4

    def solve(self, state: Document) -> None:
        state["browser"]["web_cart"].append({"site": self.params["site"], "product": self.params["first"]["id"]})

    def script(self, user: User) -> Actions:
        yield from self.search(user)
        yield from user.tap(f"Browser/{self.params['first']['name']}")
        yield from user.tap("Browser/Add to cart")


class WebShopCheapest(Template):
    """Open the cheapest product of a department of a shop."""

    text = "Go to {site} and open the cheapest product of the department {category}"
    apps = ("Browser",)
    family = "webshop"
    complexity = 1.4

    def prepare(self, state: Document, rng: Random) -> Parameters:
        site = rng.choice(sorted(STORES))
        category = rng.choice(sorted({product["category"] for product in products(STORES[site])}))
        rows = [product for product in products(STORES[site]) if product["category"] == category]
        lowest = min(product["price"] for product in rows)
        cheapest = [product for product in rows if product["price"] == lowest]
        return {"site": site, "category": category, "name": cheapest[0]["name"], "ids": [row["id"] for row in cheapest]}

    def solve(self, state: Document) -> None:
        show(state, f"{self.params['site']}/product/{self.params['ids'][0]}")

    def reached(self, state: Document) -> bool:
        host, path, _ = page_of(state)
        return host == self.params["site"] and path in [f"product/{id_}" for id_ in self.params["ids"]]

    def script(self, user: User) -> Actions:
        yield from open_site(user, self.params["site"])
        yield from user.tap(f"Browser/{self.params['category']}")
        yield from user.tap("Browser/Cheapest first")
        yield from user.tap(f"Browser/{self.params['name']}")


class BrowserAddBookmark(Template):
    """Bookmark a web site."""

    text = "Bookmark the site {site} in the browser"
    apps = ("Browser",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        bookmarks = state["browser"]["bookmarks"]
        return {"site": rng.choice([site["url"] for site in static_data("sites") if site["url"] not in bookmarks])}

    def solve(self, state: Document) -> None:
        state["browser"]["bookmarks"].append(self.params["site"])

    def script(self, user: User) -> Actions:
        yield from open_site(user, self.params["site"])
        yield from user.tap("Browser/Bookmark")


class BrowserFillForm(Template):
    """Fill in a form of Survey Corner."""

    text = 'On surveycorner.web fill in the form "Lunch order" for {name}: the dish is {dish}, the drink is {drink}'
    apps = ("Browser",)
    complexity = 1.8

    def prepare(self, state: Document, rng: Random) -> Parameters:
        fields = {field["name"]: field for field in self._form()["fields"]}
        choices = {key: rng.choice(fields[name]["options"]) for key, name in (("dish", "Dish"), ("drink", "Drink"))}
        return {"name": rng.choice(words.FIRST_NAMES), **choices}

    def solve(self, state: Document) -> None:
        p = self.params
        values = {"Name": p["name"], "Dish": p["dish"], "Drink": p["drink"], "Note": ""}
        state["browser"]["forms"].append({"site": "surveycorner.web/lunch", "values": values})

    def script(self, user: User) -> Actions:
        yield from open_site(user, "surveycorner.web")
        yield from user.tap("Browser/Lunch order")
        yield from user.type("Browser/Name", self.params["name"])
        yield from user.tap(f"Browser/Dish {self.params['dish']}")
        yield from user.tap(f"Browser/Drink {self.params['drink']}")
        yield from user.tap("Browser/Submit")

    def _form(self) -> dict[str, Any]:
        return next(form for form in static_data("surveys") if form["id"] == "lunch")
