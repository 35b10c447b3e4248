"use strict";
{
  const { page, list, row, iconButton, button, field, picker, form, filters, empty, confirmation } = widgets;

  const ICONS = { Food: "restaurant", Travel: "directions_bus", Housing: "home", Health: "favorite",
    Fun: "celebration", Clothes: "checkroom", Other: "category" };
  const categories = ({ expenses }) => [...new Set([...Object.keys(ICONS),
    ...expenses.map((expense) => expense.category)])];
  const total = (rows) => rows.reduce((sum, { amount }) => sum + amount, 0);

  /* "12.5" -> 1250, null if it is no amount */
  const cents = (text) => {
    const match = /^\$?\s*(\d+)(?:[.,](\d{1,2}))?$/.exec(text.trim());
    return match && Number(match[1]) * 100 + Number((match[2] ?? "0").padEnd(2, "0"));
  };

  const expenseRow = (expense) => row({ name: expense.name, title: expense.name,
    subtitle: `${expense.category} · ${format.day(expense.date)}`,
    icon: ICONS[expense.category] ?? "category", after: h("span.price", null, format.money(expense.amount)),
    tap: () => phone.openPage(`expense/${expense.id}`) });

  const main = (state) => {
    const { expenses, screen: { draft } } = state, shown = draft.shown ?? "All";
    const found = expenses.filter((expense) => shown === "All" || expense.category === shown)
      .sort(phone.by(({ date }) => date, -1));
    const used = categories(state).filter((category) => expenses.some((expense) => expense.category === category));
    return page({
      title: "Expenses",
      body: [
        filters(["All", ...used]),
        found.length > 0 ? [h("div.total", null, `Total ${format.money(total(found))}`), list(found.map(expenseRow))]
          : empty("No expenses"),
      ],
      button: { name: "New expense", icon: "add", label: "New expense",
        tap: () => phone.openPage("edit/new",
        { name: "", amount: "", category: "Food", date: format.today(), note: "" }) } });
  };

  const expense = ({ expenses }, id) => {
    const row = phone.find(expenses, id);
    return page({
      title: row.name,
      actions: [
        iconButton({ name: "Edit", icon: "edit",
          tap: () => phone.openPage(`edit/${id}`, { ...row, amount: format.money(row.amount).slice(1) }) }),
        iconButton({ name: "Delete", icon: "delete", tap: () => phone.openDialog(`delete/${id}`) })],
      body: [
        h("div.big-time", null, format.money(row.amount)),
        list(widgets.fact({ title: row.category, subtitle: "Category", icon: ICONS[row.category] ?? "category" }),
             widgets.fact({ title: format.longDay(row.date), subtitle: "Date", icon: "event" }),
             row.note && widgets.fact({ title: row.note, subtitle: "Note", icon: "notes" }))] });
  };

  const save = (id) => {
    const { expenses, screen: { draft } } = phone.state, amount = cents(draft.amount);
    const values = { name: draft.name.trim(), amount, category: draft.category, date: draft.date,
      note: draft.note.trim() };
    if (!values.name) return phone.toast("Enter a name");
    if (amount === null) return phone.toast("Enter an amount such as 12.50");
    if (id === "new") phone.add(expenses, "x", values);
    else Object.assign(phone.find(expenses, id), values);
    phone.closePage();
  };

  const edit = (_, id) => page({
    title: id === "new" ? "New expense" : "Edit expense",
    actions: [button({ name: "Save", tap: () => save(id) })],
    body: [form(
      field({ label: "Name", field: "name", icon: "shopping_bag" }),
      field({ label: "Amount", field: "amount", icon: "attach_money", keyboard: "symbols" }),
      picker({ label: "Category", field: "category", dialog: "choose", icon: "category" }),
      picker({ label: "Date", field: "date", dialog: "date", icon: "event", shown: format.longDay }),
      field({ label: "Note", field: "note", icon: "notes" }))] });

  const dialogs = {
    delete: ({ expenses }, id) => confirmation({ title: "Delete expense?",
      text: `"${phone.find(expenses, id).name}" will be deleted.`, confirm: () => {
      phone.remove(expenses, id);
      phone.closePage();
      phone.toast("Expense deleted");
    } }),
  };

  phone.app({ name: "Expenses", icon: "receipt_long", colour: "#6a1b9a", pages: { main, expense, edit }, dialogs,
    choices: (state) => ({ category: categories(state) }) });
}
