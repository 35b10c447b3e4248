"use strict";
{
  const { page, list, row, fact, iconButton, button, field, picker, form, heading, empty, confirmation } = widgets;

  const eventsOf = (events, day) => events.filter((event) => event.date === day)
    .sort(phone.by(({ start }) => start));

  const eventRow = (event) => row({ name: event.title, title: event.title, icon: "event",
    subtitle: `${event.start} - ${event.end}${event.location && ` · ${event.location}`}`,
    tap: () => phone.openPage(`event/${event.id}`) });

  const main = ({ events, screen: { draft } }) => {
    const day = draft.day ?? format.today(), month = draft.month ?? day.slice(0, 7);
    const cell = (date) => date === null ? h("div.cell") : h("div.cell", {
      name: String(Number(date.slice(8))), role: "day", value: date === day,
      class: date === day ? "cell-on" : date === format.today() && "cell-today",
      tap: () => Object.assign(draft, { day: date, month }) },
      String(Number(date.slice(8))), eventsOf(events, date).length > 0 && h("div.dot"));
    const turn = (name, icon, count) => iconButton({ name, icon,
      tap: () => { draft.month = format.addMonths(month, count); } });
    const chosen = eventsOf(events, day);
    return page({
      title: format.shortMonth(month),
      actions: [turn("Previous month", "chevron_left", -1), turn("Next month", "chevron_right", 1),
        iconButton({ name: "Today", icon: "today",
          tap: () => Object.assign(draft, { day: format.today(), month: format.today().slice(0, 7) }) })],
      body: [
        h("div.cells.cells-7", null, format.DAYS.map((name) => h("div.cell.cell-head", null, name)),
          monthDays(month).map(cell)),
        heading(format.day(day)),
        chosen.length > 0 ? list(chosen.map(eventRow)) : h("div.empty-line", null, "No events"),
      ],
      button: { name: "New event", icon: "add", label: "New event",
        tap: () => phone.openPage("edit/new",
        { title: "", date: day, start: "09:00", end: "10:00", location: "", description: "" }) } });
  };

  const event = ({ events }, id) => {
    const { title, date, start, end, location, description } = phone.find(events, id);
    return page({
      title,
      actions: [iconButton({ name: "Edit", icon: "edit",
        tap: () => phone.openPage(`edit/${id}`, { ...phone.find(events, id) }) }),
          iconButton({ name: "Delete", icon: "delete", tap: () => phone.openDialog(`delete/${id}`) })],
      body: [list(
        fact({ title: `${format.day(date)}, ${date.slice(0, 4)}`, subtitle: `${start} - ${end}`, icon: "schedule" }),
        location && fact({ title: location, subtitle: "Location", icon: "place" })),
        description && [heading("Description"), widgets.paragraph(description)]] });
  };

  const save = (id) => {
    const { events, screen: { draft } } = phone.state;
    const { date, start, end } = draft,
      [title, location, description] = [draft.title, draft.location, draft.description].map((text) => text.trim());
    if (!title) return phone.toast("Enter a title");
    if (end <= start) return phone.toast("The end must be after the start");
    const values = { title, date, start, end, location, description };
    if (id === "new") phone.add(events, "e", values);
    else Object.assign(phone.find(events, id), values);
    phone.closePage();
    if (id === "new") Object.assign(phone.state.screen.draft, { day: date, month: date.slice(0, 7) });
  };

  const edit = (_, id) => page({
    title: id === "new" ? "New event" : "Edit event",
    actions: [button({ name: "Save", tap: () => save(id) })],
    body: [form(
      field({ label: "Title", field: "title", icon: "title" }),
      picker({ label: "Date", field: "date", dialog: "date", icon: "event", shown: format.longDay }),
      picker({ label: "Start", field: "start", dialog: "time", icon: "schedule" }),
      picker({ label: "End", field: "end", dialog: "time", icon: "schedule" }),
      field({ label: "Location", field: "location", icon: "place" }),
      field({ label: "Description", field: "description", icon: "notes", lines: 3 }))] });

  const dialogs = {
    delete: ({ events }, id) => confirmation({ title: "Delete event?",
      text: `"${phone.find(events, id).title}" will be deleted.`, confirm: () => {
      phone.remove(events, id);
      phone.closePage();
    } }),
  };

  phone.app({ name: "Calendar", icon: "calendar_month", colour: "#1565c0", pages: { main, event, edit }, dialogs });
}
