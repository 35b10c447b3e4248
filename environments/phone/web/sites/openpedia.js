"use strict";
/* Openpedia, the encyclopedia: openpedia.web, openpedia.web/wiki/Otter, openpedia.web/category/Animals */
{
  const HOST = "openpedia.web";
  const articles = () => phone.data.articles;
  const top = () => [web.banner(HOST), web.search(HOST, "Search Openpedia")];
  const open = ({ title, text }) => widgets.row({ name: title, title, subtitle: text, role: "link",
    tap: () => phone.visit(phone.url(HOST, ["wiki", title])) });
  const categories = () => [...new Set(articles().map(({ category }) => category))];

  const home = () => [...top(), widgets.heading("Categories"),
    widgets.chips(categories()
      .map((name) => widgets.chip({ name, tap: () => phone.visit(phone.url(HOST, ["category", name])) })))];

  const category = (name) => [...top(), widgets.heading(name),
    widgets.list(articles().filter((article) => article.category === name).map(open))];

  const article = (title) => {
    const found = articles().find((row) => row.title.toLowerCase() === title.replaceAll("_", " ").toLowerCase());
    return found && [...top(), h("div.article-title", null, found.title), widgets.paragraph(found.text),
      widgets.list(Object.entries(found.facts).map(([name, value]) => widgets.fact({ title: value, subtitle: name }))),
      widgets.heading("See also"),
      h("div.links", null, found.see_also.map((other) => web.link(other, phone.url(HOST, ["wiki", other]))))];
  };

  const search = (q) => {
    const found = web.ranked(q, articles().map((row) => ({ ...row, texts: [row.title, row.text] })));
    return [...top(), widgets.heading(`Articles for "${q}"`),
      found.length > 0 ? widgets.list(found.map(open)) : h("div.empty-line", null, "No article was found")];
  };

  phone.site(HOST, (_, [part, name = ""], { q = "" }) => {
    if (part === undefined) return { body: home() };
    if (part === "wiki") return { body: article(name) };
    if (part === "category") return { body: category(name) };
    return part === "search" && { body: search(q) };
  });
}
