"use strict";
{
  const { page, tab, list, row, split, iconButton, button, buttons, searchField, filters, heading, empty,
    confirmation } = widgets;

  const products = () => phone.data.products.filter((product) => product.store === "Shop");
  const product = (id) => phone.find(phone.data.products, id);
  const categories = () => [...new Set(products().map(({ category }) => category))];
  const total = (items) => items.reduce((sum, { product_id, quantity }) => sum + product(product_id).price * quantity,
    0);

  const COLOURS = ["#ef5350", "#5c6bc0", "#26a69a", "#ffa726", "#8d6e63", "#7e57c2", "#42a5f5", "#66bb6a"];

  /* The picture of a product, also for the shops on the web. */
  phone.picture = ({ id, icon }, size = "small") =>
    h(`div.picture.picture-${size}`, { style: `background: ${COLOURS[Number(id.slice(1)) % COLOURS.length]}` },
      widgets.icon(icon, "#fff"));

  phone.ORDERS = {
    Featured: () => 0,
    "Price: low to high": phone.by(({ price }) => price),
    "Price: high to low": phone.by(({ price }) => price, -1),
    Rating: phone.by(({ rating }) => rating, -1),
  };

  const TABS = [["Shop", "main", "storefront"], ["Wishlist", "wishlist", "favorite"],
    ["Cart", "cart", "shopping_cart"], ["Orders", "orders", "receipt"]];
  const tabs = (current) => TABS.map(([name, target, icon]) => tab({ name, icon, on: target === current,
    tap: () => phone.replacePage(target) }));

  const productRow = (item) => row({ name: item.name, title: item.name, subtitle: `Rated ${item.rating.toFixed(1)}`,
    media: phone.picture(item), after: h("span.price", null, format.money(item.price)),
    tap: () => phone.openPage(`product/${item.id}`) });

  const main = ({ screen: { draft } }) => {
    const { shown = "All", order = "Featured" } = draft;
    const found = products()
      .filter((item) => (shown === "All" || item.category === shown) && phone.contains(item.name, draft.query))
      .sort(phone.ORDERS[order]);
    return page({
      search: searchField({ label: "Search products" }),
      actions: [iconButton({ name: "Sort", icon: "sort", tap: () => phone.openDialog("order") })],
      tabs: tabs("main"),
      body: [filters(["All", ...categories()]),
             found.length > 0 ? list(found.map(productRow)) : empty("No products")] });
  };

  const addToCart = (id) => {
    const { cart } = phone.state.shops, item = cart.find((other) => other.product_id === id);
    if (item) item.quantity += 1;
    else cart.push({ product_id: id, quantity: 1 });
    phone.toast("Added to the cart");
  };

  const toggleWish = ({ wishlist }, id) => {
    if (wishlist.includes(id)) wishlist.splice(wishlist.indexOf(id), 1);
    else wishlist.push(id);
  };

  const detail = ({ shops }, id) => {
    const item = product(id), wished = shops.wishlist.includes(id);
    return page({
      title: "",
      actions: [iconButton({ name: "Wishlist", icon: wished ? "favorite" : "favorite_border", value: wished,
        tap: () => toggleWish(shops, id) }),
          iconButton({ name: "Open cart", icon: "shopping_cart", tap: () => phone.openPage("cart") })],
      body: [
        h("div.portrait", null, phone.picture(item, "large"), h("div.portrait-name", null, item.name)),
        h("div.big-price", null, format.money(item.price)),
        h("div.empty-line", null, `Rated ${item.rating.toFixed(1)} · ${item.category}`),
        widgets.paragraph(item.about),
        buttons(button({ name: "Add to cart", icon: "add_shopping_cart", tap: () => addToCart(id) }))] });
  };

  const wishlist = ({ shops }) => page({
    title: "Wishlist", tabs: tabs("wishlist"),
    body: [shops.wishlist.length > 0
      ? list(shops.wishlist.map((id) => split(productRow(product(id)),
        iconButton({ name: `Remove ${product(id).name}`, icon: "close", tap: () => toggleWish(shops, id) }))))
      : empty("The wishlist is empty")] });

  const setQuantity = (item, quantity) => () => {
    const { shops } = phone.state;
    item.quantity = quantity;
    shops.cart = shops.cart.filter((other) => other.quantity > 0);
  };

  const cartRow = (item) => {
    const { name, price } = product(item.product_id);
    return h("div.cart-row", null,
      widgets.fact({ title: name, subtitle: format.money(price * item.quantity) }),
      iconButton({ name: `Less ${name}`, icon: "remove", tap: setQuantity(item, item.quantity - 1) }),
      h("div.quantity", null, item.quantity),
      iconButton({ name: `More ${name}`, icon: "add", tap: setQuantity(item, item.quantity + 1) }));
  };

  const cart = ({ shops }) => page({
    title: "Cart", tabs: tabs("cart"),
    body: [shops.cart.length > 0
      ? [list(shops.cart.map(cartRow)), h("div.total", null, `Total ${format.money(total(shops.cart))}`),
         buttons(button({ name: "Checkout", tap: () => phone.openDialog("checkout") }))]
      : empty("The cart is empty")] });

  const checkout = () => {
    const { shops } = phone.state;
    phone.add(shops.orders, "o", { items: shops.cart, total: total(shops.cart) });
    shops.cart = [];
    phone.replacePage("orders");
    phone.toast("Thank you for your order");
  };

  const orderName = ({ id }) => `Order ${id.slice(1)}`;
  const orders = ({ shops }) => page({
    title: "Orders", tabs: tabs("orders"),
    body: [shops.orders.length > 0
      ? list([...shops.orders].reverse()
        .map((order) => row({ name: orderName(order), title: orderName(order), icon: "receipt",
          subtitle: order.items.map((item) => `${item.quantity} x ${product(item.product_id).name}`).join(", "),
          after: h("span.price", null, format.money(order.total)), tap: () => phone.openPage(`order/${order.id}`) })))
      : empty("No orders")] });

  const order = ({ shops }, id) => {
    const { items, total: sum } = phone.find(shops.orders, id);
    return page({ title: orderName({ id }), body: [
      list(items.map(({ product_id, quantity }) => widgets.fact({ title: product(product_id).name,
        subtitle: `Quantity ${quantity}`, after: format.money(product(product_id).price * quantity) }))),
      h("div.total", null, `Total ${format.money(sum)}`)] });
  };

  const dialogs = {
    order: ({ screen: { draft } }) => widgets.options({ title: "Sort by", options: Object.keys(phone.ORDERS),
      value: draft.order ?? "Featured", choose: (name) => { draft.order = name; } }),
    checkout: ({ shops }) => confirmation({ title: "Place the order?",
      text: `You pay ${format.money(total(shops.cart))}.`, name: "Order", confirm: checkout }),
  };

  phone.app({ name: "Shop", icon: "shopping_bag", colour: "#c2185b",
    pages: { main, product: detail, wishlist, cart, orders, order }, dialogs });
}
