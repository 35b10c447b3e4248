"use strict";
/* The status bar and the notification shade. */
{
  const QUICK = [
    ["wifi", "Wi-Fi", "wifi"], ["bluetooth", "Bluetooth", "bluetooth"],
      ["airplane_mode", "Airplane mode", "airplanemode_active"],
    ["do_not_disturb", "Do not disturb", "do_not_disturb_on"], ["location", "Location", "location_on"],
    ["battery_saver", "Battery saver", "battery_saver"],
  ];

  phone.statusBar = ({ settings }) => {
    const signs = [
      settings.do_not_disturb && "do_not_disturb_on", settings.bluetooth && "bluetooth",
      settings.airplane_mode ? "airplanemode_active" : settings.mobile_data && "signal_cellular_4_bar",
      settings.wifi && "wifi", settings.battery_saver ? "battery_saver" : "battery_full",
    ];
    return [h("div.status-time", null, format.clock()),
      h("div.status-icons", null, signs.filter(Boolean).map((sign) => widgets.icon(sign)))];
  };

  phone.shade = (state) => {
    if (!state.screen.shade_open) return [];
    phone.scope = "shade";
    const rows = state.notifications;
    return [h("div.shade", { "data-scroll": "shade" },
      h("div.shade-date", null, format.day(format.today())),
      h("div.quick", null, QUICK.map((entry) => quick(state, ...entry))),
      rows.length ? rows.map((row) => notification(state, row)) : h("div.empty", null, "No notifications"),
      rows.length > 0 && h("div.buttons", null,
        widgets.button({ name: "Clear all", kind: "tonal", tap: () => { state.notifications = []; } })))];
  };

  const quick = ({ settings }, key, label, icon) =>
    h("div.quick-tile", { name: label, role: "switch", value: settings[key], class: settings[key] && "quick-on",
      tap: () => phone.changeSetting(key, !settings[key]) },
      widgets.icon(icon), h("span", null, label));

  const notification = (state, { id, app, title, text }) => h("div.notification", null,
    h("div.notification-text", { name: title, role: "row", tap: () => openNotification(state, id, app) },
      h("div.notification-app", null, app), h("div.row-title", null, title), h("div.row-subtitle", null, text)),
    widgets.iconButton({ name: `Dismiss ${title}`, icon: "close", tap: () => phone.remove(state.notifications, id) }));

  const openNotification = (state, id, app) => {
    phone.remove(state.notifications, id);
    phone.openApp(app);
  };

  /* Airplane mode turns the radios off, as on a real phone; they can be turned on again afterwards. */
  phone.changeSetting = (key, value) => {
    const { settings } = phone.state;
    settings[key] = value;
    if (key === "airplane_mode" && value) Object.assign(settings, { wifi: false, bluetooth: false });
  };
}
