"""The phone's static data is complete and consistent."""

from collections import Counter

import pytest

from pr2l.environments.base import UserError
from pr2l.environments.phone.static_data import static_data


def test_each_shop_has_products_with_different_names():
    products = static_data("products")
    assert Counter(product["store"] for product in products) == {"Shop": 84, "Megamart": 80, "Nutshell Books": 40}
    assert len({product["id"] for product in products}) == len(products)
    assert len({(product["store"], product["name"]) for product in products}) == len(products)
    assert all(product["price"] > 0 and isinstance(product["price"], int) for product in products)


def test_articles_refer_to_articles():
    articles = static_data("articles")
    titles = {article["title"] for article in articles}
    assert len(titles) == len(articles) >= 40
    assert {title for article in articles for title in article["see_also"]} <= titles


def test_an_unknown_name_is_answered_with_the_nearest_one():
    with pytest.raises(UserError, match="Did you mean 'products'"):
        static_data("product")
