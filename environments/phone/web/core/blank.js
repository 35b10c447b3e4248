"use strict";
/* A phone without any content: what index.html shows until a state is set. */
phone.setState({
  now: "2023-10-15T15:34",
  look: {
    dark: false, font: "normal", wallpaper: 0, accent: "#6750a4",
    icon_order: Object.keys(phone.apps).filter((app) => app !== "launcher"),
  },
  settings: {
    wifi: true, bluetooth: false, airplane_mode: false, mobile_data: true, location: true, do_not_disturb: false,
    battery_saver: false, auto_rotate: true, brightness: 60, ring_volume: 70, media_volume: 50, alarm_volume: 80,
    screen_timeout: "1 min", ringtone: "Aurora", device_name: "My phone",
  },
  contacts: [], messages: [], alarms: [], timers: [], stopwatch: { running: false, elapsed_s: 0, laps: 0 },
  world_clocks: [], events: [], notes: [], shops: { cart: [], orders: [], wishlist: [] }, expenses: [], files: [],
  tasks: [], browser: { history: [], bookmarks: [], url: null, forms: [], web_cart: [] }, notifications: [], screen: {},
});

// The page has loaded when its fonts have, whether the first screen uses them or not.
for (const face of document.fonts) face.load();
