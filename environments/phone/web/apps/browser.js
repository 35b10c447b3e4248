"use strict";
/* The browser. Its web is drawn by the files in sites/: each registers a host with phone.site. */
{
  const { page, list, row, iconButton, heading, empty, confirmation, searchField } = widgets;

  const SITES = {};

  /* Register a site: (state, path: [parts], query: {name: value}) => {title, body: [views]}. */
  phone.site = (host, draw) => { SITES[host] = draw; };

  /* A part of a url as text; a typed "%" may begin no code. */
  const decode = (text) => {
    try {
      return decodeURIComponent(text);
    } catch {
      return text;
    }
  };

  /* "megamart.web/search?q=desk lamp" -> {host, path: ["search"], query: {q: "desk lamp"}} */
  const parse = (url) => {
    const [place, search = ""] = url.split("?"),
      [host, ...path] = place.split("/").filter(Boolean).map(decode);
    return { host, path, query: Object.fromEntries(new URLSearchParams(search)) };
  };

  /* The url of a page of a site; its query has no empty values. */
  phone.url = (host, path = [], query = {}) => {
    const search = new URLSearchParams(Object.entries(query).filter(([, value]) => value)).toString();
    return [host, ...path.map(encodeURIComponent)].join("/").replaceAll("%20", "_") + (search && `?${search}`);
  };

  /* Go to a url: a page above this one, and an entry of the history. */
  phone.visit = (url) => {
    const { browser } = phone.state;
    browser.history.push(url);
    browser.url = url;
    openTab(url);
  };

  const openTab = (url) => phone.openPage(`web/${encodeURIComponent(url)}`, { address: url });

  const goTo = () => {
    const text = phone.state.screen.draft.address.trim().replace(/^https?:\/\//, "");
    if (text) phone.visit(/^[\w.-]+\.web(\/|$)/i.test(text) ? text : phone.url("lookup.web", ["search"], { q: text }));
  };

  /* A touch empties it, because one goes elsewhere. */
  const startAddress = () => {
    if (phone.state.screen.focus !== "address") phone.state.screen.draft.address = "";
    phone.focus("address");
  };

  const addressBar = () => searchField({ name: "Address", label: "Search or type address", field: "address",
    tap: startAddress, enter: goTo });

  const linkRow = (url, icon) => row({ name: url, title: url, icon, role: "link", tap: () => phone.visit(url) });

  const main = ({ browser }) => page({
    search: addressBar(),
    actions: [iconButton({ name: "History", icon: "history", tap: () => phone.openPage("history") })],
    body: [
      heading("Sites"),
      h("div.app-icons.site-icons", null, phone.data.sites.map(({ name, url, icon, colour }) =>
        h("div.app-icon", { name, role: "link", tap: () => phone.visit(url) },
          h("div.app-shape", { style: `background: ${colour}` }, widgets.icon(icon, "#fff")), h("span", null, name)))),
      heading("Bookmarks"),
      browser.bookmarks.length > 0 ? list(browser.bookmarks.map((url) => linkRow(url, "star")))
        : h("div.empty-line", null, "No bookmarks"),
    ] });

  const web = (state, url) => {
    const { host, path, query } = parse(url), { bookmarks } = state.browser, marked = bookmarks.includes(url);
    const { body } = SITES[host?.toLowerCase()]?.(state, path, query) ?? missing(url);
    return page({
      search: addressBar(),
      actions: [iconButton({ name: "Bookmark", icon: marked ? "star" : "star_border", value: marked,
        tap: () => toggle(bookmarks, url) })],
      body: h("div.site", null, body ?? missing(url).body) });
  };

  const toggle = (bookmarks, url) => {
    if (bookmarks.includes(url)) bookmarks.splice(bookmarks.indexOf(url), 1);
    else bookmarks.push(url);
  };

  const missing = (url) => ({ body: [empty(`The page ${url} cannot be found.`)] });

  const history = ({ browser }) => page({
    title: "History",
    actions: [iconButton({ name: "Clear history", icon: "delete", tap: () => phone.openDialog("clear") })],
    body: [browser.history.length > 0 ? list([...browser.history].reverse().map((url) => linkRow(url, "history")))
      : empty("No history")] });

  const dialogs = {
    clear: ({ browser }) => confirmation({ title: "Clear history?", text: "All visited pages will be forgotten.",
      name: "Clear", confirm: () => { browser.history = []; } }),
  };

  /* Show the page that was open last. */
  const open = ({ browser }) => { if (browser.url) openTab(browser.url); };

  /* Close the page on top, and say which one is open now. */
  const back = (state) => {
    phone.closePage();
    const { app, page: path } = state.screen;
    if (app === "Browser") state.browser.url = path.startsWith("web/") ? decodeURIComponent(path.slice(4)) : null;
    return true;
  };

  phone.app({ name: "Browser", icon: "public", colour: "#0288d1", pages: { main, web, history }, dialogs, open, back });
}
