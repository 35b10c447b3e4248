"use strict";
/* Drawing: the whole page from the state, after every change. */
{
  /* "contact/c1" -> ["contact", "c1"] */
  const parts = (path) => path.split("/").map(decodeURIComponent);

  phone.draw = () => {
    const { state } = phone, { look } = state;
    document.documentElement.className = look.dark ? "dark" : "";
    Object.assign(document.documentElement.dataset, { accent: look.accent, font: look.font });
    phone.patch(document.getElementById("phone"), [
      h("div.status-bar", { class: state.screen.app === "launcher" && !state.screen.shade_open && "on-wallpaper" },
        phone.statusBar(state)),
      h("div.main", null, page(state), dialog(state), toast(state)),
      h("div.keyboard-place", null, phone.keyboard(state)),
      h("div.shade-place", null, phone.shade(state)),
    ]);
    focus(state.screen);
    scroll(state.screen);
  };

  const page = (state) => {
    const [name, ...values] = parts(state.screen.page);
    phone.scope = state.screen.app;
    return phone.apps[state.screen.app].pages[name](state, ...values);
  };

  const dialog = (state) => {
    const { dialog: path, app } = state.screen;
    if (!path) return h("div.dialog-place");
    const [name, ...values] = parts(path);
    const draw = phone.apps[app].dialogs?.[name] ?? phone.dialogs[name];
    return h("div.dialog-place.dialog-open", null,
      h("div.outside", { name: "dialog/outside", role: "outside", tap: phone.closeDialog }), draw(state, ...values));
  };

  const toast = ({ screen }) => h("div.toast-place", null, screen.toast && h("div.toast-box", null, screen.toast));

  const focus = (screen) => {
    const field = phone.focused();
    if (field) {
      if (document.activeElement !== field) field.focus({ preventScroll: true });
    } else document.activeElement?.blur();
  };

  /* Scroll to where the state says, and so far that the field in focus can be seen. */
  const scroll = (screen) => {
    for (const area of document.querySelectorAll("[data-scroll]")) {
      const key = area.dataset.scroll;
      if (!(key in screen)) continue;
      area.scrollTop = screen[key];
      phone.focused()?.closest(".field-box")?.scrollIntoView({ block: "nearest" });
      screen[key] = area.scrollTop;
    }
  };
}
