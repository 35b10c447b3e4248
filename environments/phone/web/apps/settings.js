"use strict";
{
  const { page, list, row, toggle, slider, options, heading, form, field, dialog, cancel } = widgets;

  const CHOICES = {
    screen_timeout: ["15 s", "30 s", "1 min", "5 min", "10 min"],
    ringtone: ["Aurora", "Bells", "Crystal", "Marimba", "Ocean"],
    font: ["small", "normal", "large"],
    accent: ["Purple", "Blue", "Green", "Pink", "Orange", "Teal"],
    wallpaper: ["1", "2", "3", "4", "5", "6"],
  };
  const ACCENTS = { Purple: "#6750a4", Blue: "#00639b", Green: "#386a20", Pink: "#8c4a60", Orange: "#984716",
    Teal: "#006a6a" };

  const SECTIONS = [
    ["network", "Network & internet", "Wi-Fi, mobile data, airplane mode", "wifi"],
    ["devices", "Connected devices", "Bluetooth", "devices"],
    ["display", "Display", "Dark theme, font size, wallpaper", "brightness_6"],
    ["sound", "Sound & vibration", "Volume, ringtone, do not disturb", "volume_up"],
    ["battery", "Battery", "Battery saver", "battery_full"],
    ["location", "Location", "Use of the location", "location_on"],
    ["about", "About phone", "Device name", "info"],
  ];

  const onOff = ({ settings }, key, title, icon, subtitle) =>
    toggle({ name: `${title} switch`, title, subtitle, icon, on: settings[key],
      tap: () => phone.changeSetting(key, !settings[key]) });

  const level = ({ settings }, key, title, icon) =>
    slider({ name: `${title} slider`, title, icon, value: settings[key],
      change: (value) => { settings[key] = value; } });

  const choice = (title, shown, key, icon) =>
    row({ name: title, title, subtitle: shown, icon, tap: () => phone.openDialog(`choice/${key}`) });

  const accentName = ({ look }) => Object.keys(ACCENTS).find((name) => ACCENTS[name] === look.accent) ?? look.accent;

  const section = (title, ...rows) => page({ title, body: [list(rows)] });

  const pages = {
    main: () => page({ title: "Settings", body: [
      list(SECTIONS.map(([name, title, subtitle, icon]) => row({ name: title, title, subtitle, icon,
        tap: () => phone.openPage(name) })))] }),

    network: (state) => section("Network & internet",
      onOff(state, "wifi", "Wi-Fi", "wifi"),
      onOff(state, "mobile_data", "Mobile data", "signal_cellular_4_bar"),
      onOff(state, "airplane_mode", "Airplane mode", "airplanemode_active")),

    devices: (state) => section("Connected devices", onOff(state, "bluetooth", "Bluetooth", "bluetooth")),

    display: (state) => section("Display",
      level(state, "brightness", "Brightness", "brightness_6"),
      toggle({ name: "Dark theme switch", title: "Dark theme", icon: "dark_mode", on: state.look.dark,
        tap: () => { state.look.dark = !state.look.dark; } }),
      choice("Font size", state.look.font, "font", "format_size"),
      choice("Wallpaper", String(state.look.wallpaper + 1), "wallpaper", "wallpaper"),
      choice("Accent colour", accentName(state), "accent", "palette"),
      choice("Screen timeout", state.settings.screen_timeout, "screen_timeout", "timer"),
      onOff(state, "auto_rotate", "Auto-rotate", "screen_rotation")),

    sound: (state) => section("Sound & vibration",
      level(state, "ring_volume", "Ring volume", "notifications"),
      level(state, "media_volume", "Media volume", "music_note"),
      level(state, "alarm_volume", "Alarm volume", "alarm"),
      choice("Ringtone", state.settings.ringtone, "ringtone", "library_music"),
      onOff(state, "do_not_disturb", "Do not disturb", "do_not_disturb_on")),

    battery: (state) => section("Battery", onOff(state, "battery_saver", "Battery saver", "battery_saver")),

    location: (state) => section("Location",
      onOff(state, "location", "Location", "location_on", "Apps may use the location")),

    about: ({ settings }) => section("About phone",
      row({ name: "Device name", title: "Device name", subtitle: settings.device_name, icon: "smartphone",
            tap: () => phone.openDialog("name", { device_name: settings.device_name }) })),
  };

  const set = ({ look, settings }, key, option) => {
    if (key === "accent") look.accent = ACCENTS[option];
    else if (key === "wallpaper") look.wallpaper = Number(option) - 1;
    else if (key === "font") look.font = option;
    else settings[key] = option;
  };

  const current = (state, key) => ({ accent: accentName(state), wallpaper: String(state.look.wallpaper + 1),
    font: state.look.font })[key] ?? state.settings[key];

  const saveName = () => {
    const { settings, screen } = phone.state;
    settings.device_name = screen.draft.device_name.trim() || settings.device_name;
    phone.closeDialog();
  };

  const dialogs = {
    choice: (state, key) => options({ title: "Choose", options: CHOICES[key], value: current(state, key),
      choose: (option) => set(state, key, option) }),
    name: () => dialog({ title: "Device name", buttons: [cancel, { name: "Save", tap: saveName }],
      body: [form(field({ label: "Device name", field: "device_name", enter: saveName }))] }),
  };

  phone.app({ name: "Settings", icon: "settings", colour: "#546e7a", pages, dialogs });
}
