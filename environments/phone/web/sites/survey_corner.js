"use strict";
/* Survey Corner: forms. What was sent is in state.browser.forms: {site: "surveycorner.web/visit", values: {...}}. */
{
  const HOST = "surveycorner.web";

  const home = () => [web.banner(HOST), widgets.heading("Forms"),
    widgets.list(phone.data.surveys.map(({ id, title }) => widgets.row({ name: title, title, icon: "fact_check",
      role: "link", tap: () => phone.visit(phone.url(HOST, [id])) })))];

  const INPUTS = {
    text: ({ name }) => widgets.form(widgets.field({ label: name, field: name })),
    choice: ({ name, options }, draft) => [widgets.heading(name),
      widgets.chips(options.map((option) => widgets.chip({ name: `${name} ${option}`, label: option,
        on: draft[name] === option, tap: () => { draft[name] = option; } })))],
    check: ({ name }, draft) => widgets.list(widgets.check({ name, title: name, on: Boolean(draft[name]),
      tap: () => { draft[name] = !draft[name]; } })),
  };

  /* Text fields contain texts, choices an option or "", checks true or false. */
  const value = ({ name, kind }, draft) => kind === "check" ? Boolean(draft[name]) : (draft[name] ?? "").trim();

  const form = (state, { id, title, fields }) => {
    const { draft } = state.screen;
    const send = () => {
      state.browser.forms.push({ site: `${HOST}/${id}`,
        values: Object.fromEntries(fields.map((field) => [field.name, value(field, draft)])) });
      phone.visit(phone.url(HOST, [id, "thanks"]));
    };
    return [web.banner(HOST), h("div.article-title", null, title),
      fields.map((field) => INPUTS[field.kind](field, draft)),
      widgets.buttons(widgets.button({ name: "Submit", tap: send }))];
  };

  const thanks = () => [web.banner(HOST), widgets.empty("Thank you. Your answers were sent."),
    widgets.buttons(widgets.button({ name: "More forms", kind: "tonal", tap: () => phone.visit(HOST) }))];

  phone.site(HOST, (state, [id, part]) => {
    if (id === undefined) return { body: home() };
    const survey = phone.find(phone.data.surveys, id);
    return survey && { body: part === "thanks" ? thanks() : form(state, survey) };
  });
}
