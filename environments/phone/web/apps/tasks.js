"use strict";
{
  const { page, list, row, split, checkbox, iconButton, button, field, picker, form, filters, empty,
    confirmation } = widgets;

  const PRIORITIES = ["low", "medium", "high"];
  const COLOURS = { low: "#2e7d32", medium: "#ef6c00", high: "#c62828" };
  const SHOWN = { All: () => true, Open: (task) => !task.done, Done: (task) => task.done };

  const due = (task) => task.due ? `Due ${format.day(task.due)}` : "No due date";

  const taskRow = (task) => h("div.split", { class: task.done && "done" },
    checkbox({ name: `${task.title} done`, on: task.done, tap: () => { task.done = !task.done; } }),
    row({ name: task.title, title: task.title, subtitle: due(task), after: widgets.icon("flag", COLOURS[task.priority]),
          tap: () => phone.openPage(`task/${task.id}`, { ...task }) }));

  const main = ({ tasks, screen: { draft } }) => {
    const shown = draft.shown ?? "All", found = tasks.filter(SHOWN[shown]);
    return page({
      title: "Tasks",
      body: [filters(Object.keys(SHOWN)),
             found.length > 0 ? list(found.map(taskRow)) : empty("No tasks")],
      button: { name: "New task", icon: "add", label: "New task",
        tap: () => phone.openPage("task/new", { title: "", due: null, priority: "medium", done: false }) } });
  };

  const save = (id) => {
    const { tasks, screen: { draft } } = phone.state;
    const values = { title: draft.title.trim(), due: draft.due, priority: draft.priority, done: draft.done };
    if (!values.title) return phone.toast("Enter a title");
    if (id === "new") phone.add(tasks, "k", values);
    else Object.assign(phone.find(tasks, id), values);
    phone.closePage();
  };

  const task = ({ screen: { draft } }, id) => page({
    title: id === "new" ? "New task" : "Task",
    actions: [
      id !== "new" && iconButton({ name: "Delete", icon: "delete", tap: () => phone.openDialog(`delete/${id}`) }),
      button({ name: "Save", tap: () => save(id) })],
    body: [form(
      field({ label: "Title", field: "title" }),
      h("div.split", null,
        picker({ label: "Due date", field: "due", dialog: "date", icon: "event",
          shown: (date) => date ? format.longDay(date) : "None" }),
        draft.due && iconButton({ name: "Clear due date", icon: "close", tap: () => { draft.due = null; } })),
      picker({ label: "Priority", field: "priority", dialog: "choose", icon: "flag" })),
      list(widgets.check({ name: "Done", title: "Done", on: draft.done,
        tap: () => { draft.done = !draft.done; } }))] });

  const dialogs = {
    delete: ({ tasks }, id) => confirmation({ title: "Delete task?",
      text: `"${phone.find(tasks, id).title}" will be deleted.`, confirm: () => {
      phone.remove(tasks, id);
      phone.closePage();
      phone.toast("Task deleted");
    } }),
  };

  phone.app({ name: "Tasks", icon: "check_circle", colour: "#2e7d32", pages: { main, task }, dialogs,
    choices: () => ({ priority: PRIORITIES }) });
}
