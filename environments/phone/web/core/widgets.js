"use strict";
/* The widgets from which apps build their pages.
 *
 * `name` is the element's name without the app; see view.js. */
window.widgets = (() => {
  const icon = (name, colour) => h("i.material-icons", { "data-icon": name, style: colour && `color: ${colour}` });

  const iconButton = ({ name, icon: glyph, tap, value, colour }) =>
    h("div.icon-button", { name, role: value === undefined ? "button" : "switch", value, tap }, icon(glyph, colour));

  /* A page: {title, actions: [views], search: field view, body: [views], button: {name, icon, tap} at the bottom,
   * tabs: [views] at the bottom, reversed: whether the body runs from the bottom up} */
  const page = ({ title, actions = [], search, body, button, tabs, reversed }) =>
    h("div.page", null,
      h("div.bar", null,
        iconButton({ name: "Back", icon: "arrow_back", tap: phone.back }),
        search ?? h("div.bar-title", null, title),
        actions),
      h("div.content", { "data-scroll": "scroll", class: reversed && "content-reversed" }, body),
      button && h("div.bottom-bar", null, floatingButton(button)),
      tabs && h("div.tab-bar", null, tabs));

  const floatingButton = ({ name, icon: glyph, tap, label }) =>
    h("div.fab-button", { name, tap, class: label && "fab-extended" }, icon(glyph), label);

  const tab = ({ name, icon: glyph, on, tap }) =>
    h("div.tab", { name, role: "tab", value: on, tap, class: on && "tab-active" }, icon(glyph), h("span", null, name));

  const list = (...rows) => h("div.list", null, h("div.list-rows", null, rows));

  const heading = (text) => h("div.heading", null, text);

  const paragraph = (text) => h("div.paragraph", null, text);

  const empty = (text) => h("div.empty", null, text);

  const lines = (title, subtitle, bold) => h("div.row-lines", null,
    h("div.row-title", { class: bold && "bold" }, title),
    subtitle && h("div.row-subtitle", { class: bold && "bold" }, subtitle));

  /* A row that can be touched: {name, title, subtitle, after, icon, colour, media, bold, role, value, tap, hold} */
  const row = ({ name, title, subtitle, after, icon: glyph, colour, media, bold, role = "row", value, tap, hold }) =>
    h("div.row", { name, role, value, tap, hold },
      media ?? (glyph && icon(glyph, colour)),
      lines(title, subtitle, bold),
      after && h("div.row-after", null, after));

  /* A row that shows something: {title, subtitle, icon, after} */
  const fact = ({ title, subtitle, icon: glyph, after }) =>
    h("div.row.fact", null, glyph && icon(glyph), lines(title, subtitle), after && h("div.row-after", null, after));

  /* A row with parts that are touched one by one: the first takes the space that is left. */
  const split = (...parts) => h("div.split", null, parts);

  const avatar = (text, colour) => h("div.avatar", { style: `background: ${colour}` }, text);

  const toggleShape = (on) => h("div.toggle", { class: on && "toggle-on" }, h("div.toggle-knob"));

  /* A row with a switch at its end: {name, title, subtitle, icon, on, tap} */
  const toggle = ({ name, title, subtitle, icon: glyph, on, tap }) =>
    row({ name, title, subtitle, icon: glyph, role: "switch", value: on, tap, after: toggleShape(on) });

  const bareToggle = ({ name, on, tap }) => h("div.bare-toggle", { name, role: "switch", value: on, tap },
    toggleShape(on));

  const checkbox = ({ name, on, tap }) =>
    h("div.icon-button", { name, role: "checkbox", value: on, tap },
      icon(on ? "check_box" : "check_box_outline_blank", on && "var(--f7-md-primary)"));

  const check = ({ name, title, on, tap }) =>
    row({ name, title, role: "checkbox", value: on, tap, icon: on ? "check_box" : "check_box_outline_blank",
          colour: on && "var(--f7-md-primary)" });

  /* A slider from 0 to 100: {name, title, icon, value, change: (value) => ...} in steps of 10 */
  const slider = ({ name, title, icon: glyph, value, change }) =>
    h("div.row.fact", null, glyph && icon(glyph),
      h("div.row-lines", null,
        h("div.row-title", null, `${title}: ${value} %`),
        h("div.slider", { name, role: "slider", value, slide: (part) => change(Math.round(part * 10) * 10) },
          h("div.slider-bar", null, h("div.slider-active", { style: `width: ${value}%` })),
          h("div.slider-knob", { style: `left: ${value}%` }))));

  /* A field for text, whose content is draft[field], with a button that empties it:
   * {name, label, field, lines, keyboard, enter, icon} */
  const field = ({ name, label, field: key, lines: count = 1, keyboard = "letters", enter, icon: glyph }) => {
    const { draft, focus } = phone.state.screen, text = draft[key] ?? "";
    return h("div.field-box", { class: focus === key && "focused" },
      h("div.field", { name: name ?? label, role: "field", value: text, tap: () => phone.focus(key, keyboard) },
        glyph && icon(glyph),
        h("div.field-inside", null, label && h("div.field-label", null, label),
          input({ key, text, lines: count, enter }))),
      clearButton(name ?? label, key, text));
  };

  /* A field to search with: the same, and tap replaces what a touch does */
  const searchField = ({ name = "Search", label = name, field: key = "query", enter = phone.hideKeyboard, tap }) => {
    const { draft, focus } = phone.state.screen, text = draft[key] ?? "";
    return h("div.search-box", { class: focus === key && "focused" },
      h("div.search-field", { name, role: "field", value: text, tap: tap ?? (() => phone.focus(key)) },
        icon("search"), input({ key, text, placeholder: label, enter })),
      (focus === key || !tap) && clearButton(name, key, text));
  };

  const input = ({ key, text, lines: count = 1, ...rest }) =>
    h(count > 1 ? "textarea" : "input",
      { "data-field": key, text, rows: count > 1 && count, inputmode: "none", spellcheck: "false", autocomplete: "off",
      ...rest });

  const clearButton = (name, key, text) =>
    text && iconButton({ name: `Clear ${name}`, icon: "cancel", tap: () => { phone.state.screen.draft[key] = ""; } });

  /* A field whose value is chosen in a dialog of all apps: {name, label, field, dialog: "time", "date" or "choose",
   * shown: (value) => text} */
  const picker = ({ name, label, field: key, dialog, icon: glyph, shown }) => {
    const value = phone.state.screen.draft[key];
    return h("div.field-box.field",
      { name: name ?? label, role: "picker", value, tap: () => phone.openDialog(`${dialog}/${key}`) },
      glyph && icon(glyph),
      h("div.field-inside", null, h("div.field-label", null, label),
        h("div.field-text", null, shown ? shown(value) : value ?? "")),
      icon("arrow_drop_down"));
  };

  const form = (...fields) => h("div.form", null, fields);

  /* kind: "fill", "tonal" or "outline" */
  const button = ({ name, tap, kind = "fill", icon: glyph }) =>
    h("div.button", { name, tap, class: `button-${kind}` }, glyph && icon(glyph), name.split("/").at(-1));

  const buttons = (...views) => h("div.buttons", null, views);

  const chip = ({ name, on, tap, label }) =>
    h("div.chip", { name, role: "chip", value: on, tap, class: on && "chip-on" }, label ?? name);

  const chips = (...views) => h("div.chips", null, views);

  /* Chips of which one is on; its name is draft[field], at first the first name. */
  const filters = (names, key = "shown") => {
    const { draft } = phone.state.screen, current = draft[key] ?? names[0];
    return chips(names.map((name) => chip({ name, on: name === current, tap: () => { draft[key] = name; } })));
  };

  // --- dialogs ---

  const dialogButton = ({ name, tap }) => h("div.dialog-button", { name: `dialog/${name}`, tap }, name);

  /* A dialog: {title, text, body: [views], buttons: [{name, tap}]} */
  const dialog = ({ title, text, body = [], buttons: rows = [] }) =>
    h("div.box", null,
      h("div.dialog-title", null, title),
      text && h("div.dialog-text", null, text),
      h("div.dialog-body", { "data-scroll": "dialog_scroll" }, body),
      rows.length > 0 && h("div.dialog-buttons", null, rows.map(dialogButton)));

  const cancel = { name: "Cancel", tap: () => phone.closeDialog() };

  /* A question before something is deleted: {title, text, name, confirm} */
  const confirmation = ({ title, text, name = "Delete", confirm }) =>
    dialog({ title, text, buttons: [cancel, { name, tap: () => { phone.closeDialog(); confirm(); } }] });

  /* One of several options: {title, options, value, choose: (option) => ...} */
  const options = ({ title, options: names, value, choose }) =>
    dialog({ title, buttons: [cancel], body: names.map((option) =>
      row({ name: `dialog/${option}`, title: String(option), role: "option", value: option === value,
            icon: option === value ? "radio_button_checked" : "radio_button_unchecked",
            tap: () => { phone.closeDialog(); choose(option); } })) });

  /* A menu of a row that was pressed long: {title, actions: [{name, icon, tap}]} */
  const menu = ({ title, actions }) =>
    dialog({ title, buttons: [cancel], body: actions.map((action) =>
      row({ name: `dialog/${action.name}`, title: action.name, icon: action.icon,
            tap: () => { phone.closeDialog(); action.tap(); } })) });

  return {
    icon, iconButton, page, floatingButton, tab, list, heading, paragraph, empty, row, fact, split, avatar, toggle,
    bareToggle, checkbox, check, slider, field, searchField, picker, form, button, buttons, chip, chips, filters,
    dialog, cancel, confirmation, options, menu,
  };
})();
