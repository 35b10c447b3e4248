"use strict";
/* Lookup, the search engine: finds pages of all sites. */
{
  const HOST = "lookup.web", MOST = 12;

  const shopHosts = Object.fromEntries(phone.data.sites.map(({ name, url }) => [name, url]));

  const index = () => [
    ...phone.data.sites.map(({ name, url, about }) => ({ title: name, url, about, texts: [name, url, about] })),
    ...phone.data.articles.map(({ title, text }) => ({ title: `${title} - Openpedia`,
      url: phone.url("openpedia.web", ["wiki", title]), about: text, texts: [`${title} openpedia`, text] })),
    ...phone.data.products.filter(({ store }) => store in shopHosts)
      .map(({ id, name, store, price, author, category }) => ({
      title: `${name} - ${store}`, url: phone.url(shopHosts[store], ["product", id]),
      about: `${author ?? category}. ${format.money(price)}`, texts: [`${name} ${store}`, author ?? "", category] })),
    ...phone.data.news.map(({ id, title, text }) => ({ title: `${title} - Daily Page`,
      url: phone.url("dailypage.web", ["news", id]), about: text, texts: [`${title} daily page`, text] })),
    ...phone.data.surveys.map(({ id, title }) => ({ title: `${title} - Survey Corner`,
      url: phone.url("surveycorner.web", [id]), about: "A form to fill in",
      texts: [`${title} survey corner`, "form"] })),
  ];

  const result = ({ title, url, about }) => h("div.result", { name: title, role: "link", tap: () => phone.visit(url) },
    h("div.result-url", null, url), h("div.result-title", null, title), h("div.result-about", null, about));

  phone.site(HOST, (_, path, { q = "" }) => {
    if (path[0] !== "search") return { body: [web.banner(HOST, "Search the web"), web.search(HOST, "Search the web")] };
    const found = web.ranked(q, index()).slice(0, MOST);
    return { body: [web.banner(HOST), web.search(HOST, "Search the web"), widgets.heading(`Results for "${q}"`),
      found.length > 0 ? found.map(result) : h("div.empty-line", null, "Nothing was found")] };
  });
}
