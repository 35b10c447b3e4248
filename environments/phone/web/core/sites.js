"use strict";
/* What the sites of the browser share. */
window.web = (() => {
  const { list, row, searchField, chip, chips, heading } = widgets;

  const banner = (host, subtitle) => {
    const { name, icon, colour } = phone.data.sites.find(({ url }) => url === host);
    return h("div.banner", { style: `background: ${colour}`, name, role: "link", tap: () => phone.visit(host) },
      widgets.icon(icon, "#fff"), h("span", null, name), subtitle && h("span.banner-about", null, subtitle));
  };

  /* A field that searches a site: its text is draft.q, its result the page search?q=... */
  const search = (host, label) => {
    const find = () => {
      const q = (phone.state.screen.draft.q ?? "").trim();
      if (q) phone.visit(phone.url(host, ["search"], { q }));
    };
    return h("div.site-search", null, searchField({ name: "Site search", label, field: "q", enter: find }),
      widgets.iconButton({ name: "Find", icon: "search", tap: find }));
  };

  const link = (name, url) => h("div.link", { name, role: "link", tap: () => phone.visit(url) }, name);

  /* How well texts fit words, the first text counting most; 0 if a word is in none of them. */
  const score = (query, ...texts) => {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const lower = texts.map((text) => text.toLowerCase());
    const points = words.map((word) => Math.max(0,
      ...lower.map((text, at) => text.includes(word) ? texts.length - at : 0)));
    return points.length > 0 && points.every(Boolean) ? points.reduce((sum, point) => sum + point, 0) : 0;
  };

  /* The rows that fit, the best first: rows of {texts: [...]} */
  const ranked = (query, rows) => rows.map((row) => ({ ...row, score: score(query, ...row.texts) }))
    .filter((row) => row.score > 0).sort((one, other) => other.score - one.score);

  return { banner, search, link, ranked, heading, list, row, chip, chips };
})();
