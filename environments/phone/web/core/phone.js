"use strict";
/* The phone: one state, and functions that change it.
 *
 * phone.state is the whole truth; `phone.draw` (draw.js) turns it into a page and nothing else is remembered. A handler
 * of an element changes the state; after every touch the page is drawn again.
 *
 * state.screen, what is open now:
 *   app, page       "launcher" or an app; the page's name and arguments: "main", "contact/c1"; the launcher's is "home"
 *   history         the pages below this one: [{page, draft, scroll}]
 *   draft           what the fields of the page contain but is not saved yet, by field
 *   dialog          null or the dialog's name and arguments: "delete/c1"
 *   focus, keyboard the field that gets the text; the keyboard's layout: null, "letters", "capitals", "symbols"
 *   scroll, dialog_scroll, shade_open, toast, recent_apps
 */
window.phone = { data: {}, apps: {}, state: null };

{
  const FRESH = {
    app: "launcher", page: "home", history: [], draft: {}, scroll: 0, dialog: null, dialog_scroll: 0,
    focus: null, keyboard: null, shade_open: false, toast: null, recent_apps: [],
  };
  const copy = (value) => JSON.parse(JSON.stringify(value));

  // --- the interface for Python ---

  phone.setState = (state) => {
    phone.state = copy(state);
    phone.state.screen = { ...copy(FRESH), ...phone.state.screen };
    phone.draw();
  };

  phone.getState = () => copy(phone.state);

  /* Close what is on top: the shade, the keyboard, the dialog, the page, the app. */
  phone.back = () => {
    const { screen } = phone.state;
    screen.toast = null;
    if (screen.shade_open) screen.shade_open = false;
    else if (screen.keyboard) hideKeyboard();
    else if (screen.dialog) phone.closeDialog();
    else if (!phone.apps[screen.app]?.back?.(phone.state)) phone.closePage();
    phone.draw();
  };

  phone.home = () => {
    enter("launcher");
    phone.draw();
  };

  /* The enter key: a new line in a field of several lines, otherwise the field's action. */
  phone.enter = () => {
    const field = phone.focused();
    if (!field) return;
    if (field.tagName === "TEXTAREA") phone.typeText("\n");
    else if (field.enter) field.enter();
    else hideKeyboard();
    phone.draw();
  };

  // --- for apps ---

  /* Register an app.
   *
   * {name, icon, colour, pages: {name: (state, ...arguments) => view}, dialogs: the same,
   *  choices: (state) => options of the dialog "choose" by field, open: (state) => called when the app is opened,
   *  back: (state) => whether it did what the back button asks} */
  phone.app = (app) => { phone.apps[app.name] = app; };

  const enter = (app) => {
    const recent_apps = phone.state.screen.recent_apps.filter((other) => other !== app);
    if (app !== "launcher") recent_apps.unshift(app);
    phone.state.screen = { ...copy(FRESH), app, page: app === "launcher" ? "home" : "main", recent_apps };
  };

  phone.openApp = (app) => {
    enter(app);
    phone.apps[app].open?.(phone.state);
  };

  phone.openPage = (page, draft = {}) => {
    const { screen } = phone.state;
    screen.history.push({ page: screen.page, draft: screen.draft, scroll: screen.scroll });
    show(page, draft, 0);
  };

  phone.replacePage = (page, draft = {}) => show(page, draft, 0);

  /* Return to the page below, or to the launcher from an app's first page. */
  phone.closePage = () => {
    const below = phone.state.screen.history.pop();
    if (below) show(below.page, below.draft, below.scroll);
    else enter("launcher");
  };

  const show = (page, draft, scroll) => {
    Object.assign(phone.state.screen,
      { page, draft, scroll, dialog: null, dialog_scroll: 0, focus: null, keyboard: null });
  };

  phone.openDialog = (dialog, draft = {}) => {
    const { screen } = phone.state;
    Object.assign(screen, { dialog, dialog_scroll: 0, focus: null, keyboard: null });
    Object.assign(screen.draft, draft);
  };

  phone.closeDialog = () => {
    Object.assign(phone.state.screen, { dialog: null, dialog_scroll: 0, focus: null, keyboard: null });
  };

  phone.toast = (text) => { phone.state.screen.toast = text; };

  phone.focus = (field, keyboard = "letters") => { Object.assign(phone.state.screen, { focus: field, keyboard }); };

  phone.focused = () => document.querySelector(`[data-field="${phone.state.screen.focus}"]`);

  const hideKeyboard = () => { Object.assign(phone.state.screen, { focus: null, keyboard: null }); };
  phone.hideKeyboard = hideKeyboard;

  /* Append a text to the field in focus. */
  phone.typeText = (text) => {
    const { screen } = phone.state;
    if (screen.focus) screen.draft[screen.focus] = (screen.draft[screen.focus] ?? "") + text;
  };
}
