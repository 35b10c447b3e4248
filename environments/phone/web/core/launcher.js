"use strict";
/* The launcher: the clock, and the apps' icons in the order of state.look. */
{
  const shape = ({ icon, colour }) => h("div.app-shape", { style: `background: ${colour}` },
    widgets.icon(icon, "#fff"));

  const appIcon = (name) => h("div.app-icon", { name, role: "icon", tap: () => phone.openApp(name) },
    shape(phone.apps[name]), h("span", null, name));

  const home = ({ look }) => h("div.launcher", { "data-wallpaper": look.wallpaper },
    h("div.launcher-clock", null, format.clock()),
    h("div.launcher-date", null, format.day(format.today())),
    h("div.app-icons", null, look.icon_order.map(appIcon)));

  phone.app({ name: "launcher", pages: { home } });
}
