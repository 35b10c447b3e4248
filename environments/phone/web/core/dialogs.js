"use strict";
/* The dialogs of all apps: they choose a time, a date or an option for a field of the page's draft. */
phone.dialogs = (() => {
  const { dialog, cancel, options, iconButton } = widgets;

  const cell = (name, on, tap) => h("div.cell",
    { name: `dialog/${name}`, role: "option", value: on, tap, class: on && "cell-on" }, name);

  /* Hours 0 to 23 and minutes in steps of 5; draft.picked holds the choice until it is confirmed. */
  const time = ({ screen: { draft } }, field) => {
    const picked = draft[`${field}_picked`] ?? draft[field] ?? "12:00", part = draft[`${field}_part`] ?? "hour";
    const [hour, minute] = picked.split(":");
    const choose = (text, next) => { Object.assign(draft, { [`${field}_picked`]: text, [`${field}_part`]: next }); };
    const hours = () => Array.from({ length: 24 }, (_, at) => format.two(at))
      .map((name) => cell(name, name === hour, () => choose(`${name}:${minute}`, "minute")));
    const minutes = () => Array.from({ length: 12 }, (_, at) => format.two(at * 5))
      .map((name) => cell(name, name === minute, () => choose(`${hour}:${name}`, "minute")));
    const tile = (name, text, of) => h("div.time-tile",
      { name: `dialog/${name}`, role: "tab", value: part === of, class: part === of && "cell-on",
        tap: () => { draft[`${field}_part`] = of; } }, text);
    return dialog({ title: "Select time", buttons: pickerButtons(draft, field, picked), body: [
      h("div.time-tiles", null, tile("hour", hour, "hour"), h("span", null, ":"), tile("minute", minute, "minute")),
      h("div.cells.cells-6", null, part === "hour" ? hours() : minutes())] });
  };

  const date = ({ screen: { draft } }, field) => {
    const picked = draft[`${field}_picked`] ?? draft[field] ?? format.today();
    const month = draft[`${field}_part`] ?? picked.slice(0, 7);
    const turn = (name, icon, count) => iconButton({ name: `dialog/${name}`, icon,
      tap: () => { draft[`${field}_part`] = format.addMonths(month, count); } });
    const days = monthDays(month)
      .map((day) => day ? cell(String(Number(day.slice(8))), day === picked, () => { draft[`${field}_picked`] = day; })
      : h("div.cell"));
    return dialog({ title: "Select date", buttons: pickerButtons(draft, field, picked), body: [
      h("div.month", null, turn("Previous month", "chevron_left", -1),
        h("div.month-name", null, format.monthName(month)), turn("Next month", "chevron_right", 1)),
      h("div.cells.cells-7", null, format.DAYS.map((day) => h("div.cell.cell-head", null, day[0])), days)] });
  };

  const pickerButtons = (draft, field, picked) => {
    const close = () => {
      delete draft[`${field}_picked`];
      delete draft[`${field}_part`];
      phone.closeDialog();
    };
    return [{ name: "Cancel", tap: close }, { name: "OK", tap: () => { draft[field] = picked; close(); } }];
  };

  const choose = (state, field) => {
    const { app, draft } = state.screen;
    return options({ title: "Choose", options: phone.apps[app].choices(state)[field], value: draft[field],
      choose: (option) => { draft[field] = option; } });
  };

  return { time, date, choose };
})();

/* The days of a month in weeks from Monday: dates, or null before the first. */
window.monthDays = (month) => {
  const before = format.DAYS.indexOf(format.weekday(`${month}-01`));
  const days = Array.from({ length: format.daysOf(month) }, (_, at) => `${month}-${format.two(at + 1)}`);
  return [...Array(before).fill(null), ...days];
};
