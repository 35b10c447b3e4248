"use strict";
{
  const { page, tab, list, row, split, bareToggle, iconButton, button, buttons, chip, chips, field, picker, form,
    searchField, heading, empty, confirmation } = widgets;

  // Hours ahead of London, without summer time.
  const CITIES = {
    Amsterdam: 1, Athens: 2, Auckland: 12, Bangkok: 7, Beijing: 8, Berlin: 1, Cairo: 2, Chicago: -6, Delhi: 5.5,
    Denver: -7, Dubai: 4, Hanoi: 7, Honolulu: -10, Istanbul: 3, Jakarta: 7, Lagos: 1, Lima: -5, Lisbon: 0, London: 0,
    "Los Angeles": -8, Madrid: 1, "Mexico City": -6, Moscow: 3, Mumbai: 5.5, Nairobi: 3, "New York": -5, Oslo: 1,
    Paris: 1, Rome: 1, "Sao Paulo": -3, Seoul: 9, Singapore: 8, Sydney: 10, Tokyo: 9, Toronto: -5, Vienna: 1,
  };

  const TABS = [["Alarm", "main", "alarm"], ["World clock", "world", "public"], ["Timer", "timers", "hourglass_empty"],
    ["Stopwatch", "stopwatch", "timer"]];

  const tabs = (current) => TABS.map(([name, target, icon]) =>
    tab({ name, icon, on: target === current, tap: () => phone.replacePage(target) }));

  // --- alarms ---

  const alarmName = ({ time, label }) => `${time} ${label}`.trim();
  const days = (alarm) => alarm.days.length === 7 ? "Every day" : alarm.days.join(", ") || "Once";

  const alarmRow = (alarm) => split(
    row({ name: alarmName(alarm), title: h("span.large-time", null, alarm.time),
      subtitle: [alarm.label, days(alarm)].filter(Boolean).join(" · "),
          tap: () => phone.openPage(`alarm/${alarm.id}`,
            { time: alarm.time, label: alarm.label, days: [...alarm.days] }) }),
    bareToggle({ name: `${alarmName(alarm)} switch`, on: alarm.on, tap: () => { alarm.on = !alarm.on; } }));

  const main = ({ alarms }) => page({
    title: "Alarm", tabs: tabs("main"),
    actions: [iconButton({ name: "New alarm", icon: "add",
      tap: () => phone.openPage("alarm/new", { time: "08:00", label: "", days: [] }) })],
    body: [alarms.length > 0
      ? list([...alarms].sort(phone.by(({ time }) => time)).map(alarmRow))
      : empty("No alarms")] });

  const dayChip = (draft) => (day) => chip({ name: day, on: draft.days.includes(day), tap: () => {
    draft.days = format.DAYS.filter((other) => draft.days.includes(other) !== (other === day));
  } });

  const saveAlarm = (id) => {
    const { alarms, screen: { draft } } = phone.state;
    const values = { time: draft.time, label: draft.label.trim(), on: true, days: draft.days };
    if (id === "new") phone.add(alarms, "a", values);
    else Object.assign(phone.find(alarms, id), values);
    phone.closePage();
  };

  const alarm = ({ screen: { draft } }, id) => page({
    title: id === "new" ? "New alarm" : "Edit alarm",
    actions: [
      id !== "new" && iconButton({ name: "Delete", icon: "delete", tap: () => phone.openDialog(`delete/${id}`) }),
      button({ name: "Save", tap: () => saveAlarm(id) })],
    body: [form(picker({ label: "Time", field: "time", dialog: "time", icon: "alarm" }),
      field({ label: "Label", field: "label", icon: "label" })),
           heading("Repeat"), chips(format.DAYS.map(dayChip(draft)))] });

  // --- world clocks ---

  /* The time in a city when the phone's own clock shows London's. */
  const timeIn = (city) => {
    const [hour, minute] = format.clock().split(":").map(Number),
      minutes = (hour * 60 + minute + CITIES[city] * 60 + 1440) % 1440;
    return `${format.two(Math.floor(minutes / 60))}:${format.two(minutes % 60)}`;
  };

  const cityRow = ({ world_clocks }) => (city) => h("div.split", null,
    widgets.fact({ title: city, after: h("span.large-time", null, city in CITIES ? timeIn(city) : "") }),
    iconButton({ name: `Remove ${city}`, icon: "close",
      tap: () => world_clocks.splice(world_clocks.indexOf(city), 1) }));

  const world = (state) => page({
    title: "World clock", tabs: tabs("world"),
    actions: [iconButton({ name: "Add city", icon: "add", tap: () => phone.openPage("cities") })],
    body: [state.world_clocks.length > 0 ? list(state.world_clocks.map(cityRow(state))) : empty("No cities")] });

  const cities = ({ world_clocks, screen: { draft } }) => {
    const found = Object.keys(CITIES)
      .filter((city) => !world_clocks.includes(city) && phone.contains(city, draft.query));
    const add = (city) => () => {
      world_clocks.push(city);
      phone.closePage();
    };
    return page({ search: searchField({ label: "Search cities" }), body: [
      found.length > 0 ? list(found.map((city) => row({ name: city, title: city, after: timeIn(city),
        tap: add(city) }))) : empty("No cities")] });
  };

  // --- timers ---

  const timerRow = (timer) => h("div.split", null,
    widgets.fact({ title: h("span.large-time", null, format.duration(timer.seconds)),
      subtitle: timer.running ? "Running" : "Paused" }),
    iconButton({ name: `${timer.running ? "Pause" : "Start"} ${format.duration(timer.seconds)}`,
      icon: timer.running ? "pause" : "play_arrow", tap: () => { timer.running = !timer.running; } }),
    iconButton({ name: `Delete ${format.duration(timer.seconds)}`, icon: "delete",
      tap: () => phone.openDialog(`delete_timer/${timer.id}`) }));

  const timers = ({ timers: rows }) => page({
    title: "Timer", tabs: tabs("timers"),
    actions: [iconButton({ name: "New timer", icon: "add", tap: () => phone.openPage("timer", { digits: "" }) })],
    body: [rows.length > 0 ? list(rows.map(timerRow)) : empty("No timers")] });

  /* Six digits hhmmss, typed from the right. */
  const timer = ({ timers: rows, screen: { draft } }) => {
    const digits = draft.digits.padStart(6, "0"),
      [hours, minutes, seconds] = [0, 2, 4].map((at) => digits.slice(at, at + 2));
    const type = (digit) => () => { draft.digits = (draft.digits + digit).replace(/^0+/, "").slice(0, 6); };
    const key = (digit) => h("div.digit", { name: digit, role: "key", tap: type(digit) }, digit);
    const add = (running) => () => {
      const total = Number(hours) * 3600 + Number(minutes) * 60 + Number(seconds);
      if (!total) return phone.toast("Enter a time");
      phone.add(rows, "t", { seconds: total, running });
      phone.closePage();
    };
    return page({ title: "New timer", body: [
      h("div.big-time", null, `${hours}h ${minutes}m ${seconds}s`),
      h("div.digits", null, [..."123456789"].map(key),
        h("div.digit", { name: "Erase", role: "key", tap: () => { draft.digits = draft.digits.slice(0, -1); } },
        widgets.icon("backspace")), key("0"), h("div.digit-blank")),
      buttons(button({ name: "Add", kind: "tonal", tap: add(false) }),
        button({ name: "Start", icon: "play_arrow", tap: add(true) }))] });
  };

  // --- stopwatch ---

  const stopwatch = ({ stopwatch: watch }) => page({
    title: "Stopwatch", tabs: tabs("stopwatch"),
    body: [
      h("div.big-time", null, format.duration(watch.elapsed_s)),
      h("div.empty-line", null, watch.laps === 1 ? "1 lap" : `${watch.laps} laps`),
      buttons(
        button({ name: watch.running ? "Stop" : "Start", icon: watch.running ? "pause" : "play_arrow",
          tap: () => { watch.running = !watch.running; } }),
        watch.running && button({ name: "Lap", icon: "flag", kind: "tonal", tap: () => { watch.laps += 1; } }),
        button({ name: "Reset", icon: "replay", kind: "tonal",
          tap: () => Object.assign(watch, { running: false, elapsed_s: 0, laps: 0 }) }))] });

  const dialogs = {
    delete: ({ alarms }, id) => confirmation({ title: "Delete alarm?",
      text: `The alarm at ${phone.find(alarms, id).time} will be deleted.`, confirm: () => {
      phone.remove(alarms, id);
      phone.closePage();
    } }),
    delete_timer: ({ timers: rows }, id) => confirmation({ title: "Delete timer?",
      text: `The timer of ${format.duration(phone.find(rows, id).seconds)} will be deleted.`,
      confirm: () => phone.remove(rows, id) }),
  };

  phone.app({ name: "Clock", icon: "schedule", colour: "#d84315",
    pages: { main, alarm, world, cities, timers, timer, stopwatch }, dialogs });
}
