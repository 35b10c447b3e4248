"use strict";
{
  const { page, list, row, iconButton, button, field, picker, form, searchField, filters, empty, confirmation,
    menu } = widgets;

  const FOLDERS = ["Personal", "Work", "Ideas", "Travel"];
  const folders = ({ notes }) => [...new Set([...FOLDERS, ...notes.map((note) => note.folder)])];

  const noteRow = (note) => row({ name: note.title, title: note.title, subtitle: note.body.split("\n")[0],
    icon: note.pinned ? "push_pin" : "description",
    after: note.folder, tap: () => phone.openPage(`note/${note.id}`, { ...note }),
    hold: () => phone.openDialog(`menu/${note.id}`) });

  const main = (state) => {
    const { notes, screen: { draft } } = state, chosen = draft.shown ?? "All";
    const found = notes.filter((note) => (chosen === "All" || note.folder === chosen)
      && phone.contains(`${note.title} ${note.body}`, draft.query));
    const ordered = [...found.filter((note) => note.pinned), ...found.filter((note) => !note.pinned)];
    return page({
      search: searchField({ label: "Search notes" }),
      body: [
        filters(["All", ...folders(state)]),
        ordered.length > 0 ? list(ordered.map(noteRow)) : empty("No notes"),
      ],
      button: { name: "New note", icon: "add",
        tap: () => phone.openPage("note/new",
        { title: "", body: "", folder: chosen === "All" ? "Personal" : chosen, pinned: false }) } });
  };

  const save = (id) => {
    const { notes, screen: { draft } } = phone.state;
    const values = { title: draft.title.trim(), body: draft.body.trim(), pinned: draft.pinned, folder: draft.folder };
    if (!values.title) return phone.toast("Enter a title");
    if (id === "new") phone.add(notes, "n", values);
    else Object.assign(phone.find(notes, id), values);
    phone.closePage();
  };

  const note = ({ screen: { draft } }, id) => page({
    title: id === "new" ? "New note" : "Note",
    actions: [
      iconButton({ name: "Pin", icon: "push_pin", value: draft.pinned, colour: draft.pinned && "var(--f7-md-primary)",
        tap: () => { draft.pinned = !draft.pinned; } }),
      id !== "new" && iconButton({ name: "Delete", icon: "delete", tap: () => phone.openDialog(`delete/${id}`) }),
      button({ name: "Save", tap: () => save(id) })],
    body: [form(
      field({ label: "Title", field: "title" }),
      picker({ label: "Folder", field: "folder", dialog: "choose", icon: "folder" }),
      field({ label: "Note", field: "body", lines: 8 }))] });

  const dialogs = {
    delete: ({ notes }, id) => confirmation({ title: "Delete note?",
      text: `"${phone.find(notes, id).title}" will be deleted.`, confirm: () => {
      phone.remove(notes, id);
      if (phone.state.screen.page !== "main") phone.closePage();
      phone.toast("Note deleted");
    } }),
    menu: ({ notes }, id) => menu({ title: phone.find(notes, id).title, actions: [
      { name: phone.find(notes, id).pinned ? "Unpin" : "Pin", icon: "push_pin",
        tap: () => { phone.find(notes, id).pinned = !phone.find(notes, id).pinned; } },
      { name: "Delete", icon: "delete", tap: () => phone.openDialog(`delete/${id}`) }] }),
  };

  phone.app({ name: "Notes", icon: "sticky_note_2", colour: "#f9a825", pages: { main, note }, dialogs,
    choices: (state) => ({ folder: folders(state) }) });
}
