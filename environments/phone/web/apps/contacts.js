"use strict";
{
  const { page, list, row, fact, field, searchField, form, empty, confirmation, iconButton, avatar, button, buttons,
    menu, heading } = widgets;

  const COLOURS = ["#7b5ea7", "#00796b", "#c2185b", "#5d6d1e", "#1565c0", "#bf5b17"];

  const fullName = ({ first_name, last_name }) => `${first_name} ${last_name}`.trim();
  const byNumber = (number) => phone.state.contacts.find((contact) => contact.phone === number);

  /* What other apps show for a number: the contact's name, or the number. */
  phone.nameOf = (number) => byNumber(number) ? fullName(byNumber(number)) : number;
  phone.face = (name) => avatar((name[0] ?? "?").toUpperCase(), COLOURS[(name.charCodeAt(0) || 0) % COLOURS.length]);

  const sorted = (rows) => [...rows].sort(phone.by((contact) => fullName(contact).toLowerCase()));
  const texts = (contact) => `${fullName(contact)} ${contact.phone} ${contact.email}`;

  const contactRow = (contact) => row({
    name: fullName(contact), title: fullName(contact), subtitle: contact.phone, media: phone.face(fullName(contact)),
    tap: () => phone.openPage(`contact/${contact.id}`), hold: () => phone.openDialog(`menu/${contact.id}`) });

  const main = ({ contacts, screen }) => {
    const found = sorted(contacts).filter((contact) => phone.contains(texts(contact), screen.draft.query));
    const starred = found.filter((contact) => contact.starred), others = found.filter((contact) => !contact.starred);
    return page({
      search: searchField({ label: "Search contacts" }),
      body: [
        starred.length > 0 && [heading("Favourites"), list(starred.map(contactRow)),
          others.length > 0 && heading("All contacts")],
        others.length > 0 && list(others.map(contactRow)),
        found.length === 0 && empty("No contacts"),
      ],
      button: { name: "New contact", icon: "add", tap: () => phone.openPage("edit/new") } });
  };

  const contact = ({ contacts }, id) => {
    const row = phone.find(contacts, id), name = fullName(row);
    return page({
      title: "",
      actions: [
        iconButton({ name: "Favourite", icon: row.starred ? "star" : "star_border", value: row.starred,
          tap: () => { row.starred = !row.starred; } }),
        iconButton({ name: "Edit", icon: "edit", tap: () => phone.openPage(`edit/${id}`, { ...row }) }),
        iconButton({ name: "Delete", icon: "delete", tap: () => phone.openDialog(`delete/${id}`) }),
      ],
      body: [
        h("div.portrait", null, phone.face(name), h("div.portrait-name", null, name)),
        buttons(button({ name: "Message", icon: "chat", kind: "tonal", tap: () => phone.openThread(row.phone) })),
        list(
          row.phone && fact({ title: row.phone, subtitle: "Phone", icon: "call" }),
          row.email && fact({ title: row.email, subtitle: "Email", icon: "mail" })),
      ] });
  };

  const save = (id) => {
    const { contacts, screen } = phone.state;
    const { first_name = "", last_name = "", phone: number = "", email = "" } = screen.draft;
    const values = { first_name: first_name.trim(), last_name: last_name.trim(), phone: number.trim(),
      email: email.trim() };
    if (!values.first_name && !values.last_name) return phone.toast("Enter a name");
    if (id === "new") {
      const added = phone.add(contacts, "c", { ...values, starred: false });
      phone.replacePage(`contact/${added}`);
    } else {
      Object.assign(phone.find(contacts, id), values);
      phone.closePage();
    }
  };

  const edit = (_, id) => page({
    title: id === "new" ? "New contact" : "Edit contact",
    actions: [button({ name: "Save", tap: () => save(id) })],
    body: [form(
      field({ label: "First name", field: "first_name", icon: "person" }),
      field({ label: "Last name", field: "last_name", icon: "person_outline" }),
      field({ label: "Phone", field: "phone", icon: "call", keyboard: "symbols" }),
      field({ label: "Email", field: "email", icon: "mail" }))] });

  const remove = (id) => {
    phone.remove(phone.state.contacts, id);
    if (phone.state.screen.page !== "main") phone.closePage();
    phone.toast("Contact deleted");
  };

  const dialogs = {
    delete: ({ contacts }, id) => confirmation({
      title: "Delete contact?", text: `${fullName(phone.find(contacts, id))} will be removed from the phone.`,
      confirm: () => remove(id) }),
    menu: ({ contacts }, id) => menu({ title: fullName(phone.find(contacts, id)), actions: [
      { name: "Edit", icon: "edit", tap: () => phone.openPage(`edit/${id}`, { ...phone.find(contacts, id) }) },
      { name: "Delete", icon: "delete", tap: () => phone.openDialog(`delete/${id}`) }] }),
  };

  phone.app({ name: "Contacts", icon: "person", colour: "#3949ab", pages: { main, contact, edit }, dialogs });
}
