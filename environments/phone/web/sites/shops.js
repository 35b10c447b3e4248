"use strict";
/* Megamart and Nutshell Books: search, categories, products and a cart (state.browser.web_cart). */
{
  const shop = (HOST, STORE) => {
    const products = phone.data.products.filter(({ store }) => store === STORE);
    const categories = [...new Set(products.map(({ category }) => category))];
    const inCart = (state) => state.browser.web_cart.filter(({ site }) => site === HOST);
    const to = (path, query) => () => phone.visit(phone.url(HOST, path, query));

    const top = (state) => [
      web.banner(HOST),
      web.search(HOST, `Search ${STORE}`),
      widgets.buttons(widgets.button({ name: "Cart", icon: "shopping_cart", kind: "tonal", tap: to(["cart"]) }),
        h("div.quantity", null, inCart(state).length === 1 ? "1 item" : `${inCart(state).length} items`)),
    ];

    const home = (state) => [...top(state), widgets.heading("Departments"),
      widgets.chips(categories.map((name) => widgets.chip({ name, tap: to(["search"], { category: name }) }))),
      widgets.heading("Popular"),
      widgets.list(products.filter(({ rating }) => rating >= 4.8).slice(0, 4).map(productRow))];

    const productRow = (item) => widgets.row({ name: item.name, title: item.name,
      subtitle: item.author ?? `Rated ${item.rating.toFixed(1)}`, media: phone.picture(item), role: "link",
      after: h("span.price", null, format.money(item.price)), tap: to(["product", item.id]) });

    const search = (state, { q = "", category = "", sort = "" }) => {
      const fitting = products.filter((item) => !category || item.category === category);
      const found = q ? web.ranked(q,
        fitting.map((item) => ({ ...item, texts: [item.name, item.author ?? "", item.category] }))) : fitting;
      const ordered = sort ? [...found].sort(phone.ORDERS[sort]) : found;
      const order = (name, label) => widgets.chip({ name: label, on: sort === name,
        tap: to(["search"], { q, category, sort: name }) });
      return [...top(state), widgets.heading(q ? `Results for "${q}"` : category),
        widgets.chips(order("Price: low to high", "Cheapest first"), order("Price: high to low", "Dearest first"),
          order("Rating", "Best rated first")),
        ordered.length > 0 ? widgets.list(ordered.map(productRow)) : h("div.empty-line", null, "No products")];
    };

    const product = (state, id) => {
      const item = products.find((other) => other.id === id);
      if (!item) return undefined;
      const add = () => {
        state.browser.web_cart.push({ site: HOST, product: id });
        phone.toast("Added to the cart");
      };
      return [...top(state),
        h("div.portrait", null, phone.picture(item, "large"), h("div.portrait-name", null, item.name),
        item.author && h("div", null, `by ${item.author}`)),
        h("div.big-price", null, format.money(item.price)),
        h("div.empty-line", null, `Rated ${item.rating.toFixed(1)} · ${item.category}`),
        widgets.paragraph(item.about),
        widgets.buttons(widgets.button({ name: "Add to cart", icon: "add_shopping_cart", tap: add }))];
    };

    const cart = (state) => {
      const rows = inCart(state), { web_cart } = state.browser;
      const item = (row) => products.find(({ id }) => id === row.product);
      const sum = rows.reduce((total, row) => total + item(row).price, 0);
      return [...top(state), widgets.heading("Your cart"),
        rows.length > 0 ? widgets.list(rows.map((row) => widgets.split(productRow(item(row)),
          widgets.iconButton({ name: `Remove ${item(row).name}`, icon: "close",
            tap: () => web_cart.splice(web_cart.indexOf(row), 1) })))) : h("div.empty-line", null, "The cart is empty"),
        rows.length > 0 && h("div.total", null, `Total ${format.money(sum)}`)];
    };

    phone.site(HOST, (state, [part, id], query) => {
      if (part === undefined) return { body: home(state) };
      if (part === "search") return { body: search(state, query) };
      if (part === "product") return { body: product(state, id) };
      return part === "cart" && { body: cart(state) };
    });
  };

  shop("megamart.web", "Megamart");
  shop("nutshellbooks.web", "Nutshell Books");
}
