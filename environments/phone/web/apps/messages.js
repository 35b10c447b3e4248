"use strict";
{
  const { page, list, row, field, searchField, empty, confirmation, iconButton, menu, form, heading } = widgets;

  /* The messages of one number, oldest first. */
  const messagesOf = (number) => phone.state.messages.filter((message) => message.name_or_number === number)
    .sort(phone.by(({ time }) => time));

  /* The numbers with messages, that of the newest message first. */
  const threads = ({ messages }) => {
    const newest = {};
    for (const { name_or_number: number, time } of messages) if (!(newest[number] >= time)) newest[number] = time;
    return Object.keys(newest).sort(phone.by((number) => newest[number], -1));
  };

  const path = (name, number) => `${name}/${encodeURIComponent(number)}`;

  /* Open the conversation with a number, also from another app. */
  phone.openThread = (number) => {
    if (phone.state.screen.app !== "Messages") phone.openApp("Messages");
    phone.openPage(path("thread", number));
    for (const message of messagesOf(number)) message.read = true;
  };

  const unread = (number) => messagesOf(number).some((message) => !message.read && !message.outgoing);

  const threadRow = (number) => {
    const last = messagesOf(number).at(-1), name = phone.nameOf(number),
      text = (last.outgoing ? "You: " : "") + last.text;
    return row({ name, title: name, subtitle: text, after: format.moment(last.time), media: phone.face(name),
      bold: unread(number), tap: () => phone.openThread(number), hold: () => phone.openDialog(path("menu", number)) });
  };

  const main = (state) => {
    const { query } = state.screen.draft;
    const texts = (number) => [phone.nameOf(number), ...messagesOf(number).map(({ text }) => text)];
    const found = threads(state).filter((number) => texts(number).some((text) => phone.contains(text, query)));
    return page({
      search: searchField({ label: "Search messages" }),
      body: [found.length > 0 ? list(found.map(threadRow)) : empty("No messages")],
      button: { name: "New message", icon: "chat", label: "New message", tap: () => phone.openPage("new") } });
  };

  /* The bubbles of a conversation; its last message is at the bottom. */
  const thread = (_, number) => page({
    title: phone.nameOf(number),
    actions: [iconButton({ name: "Delete conversation", icon: "delete",
      tap: () => phone.openDialog(path("delete", number)) })],
    reversed: true,
    body: messagesOf(number).reverse().map(bubble),
    tabs: [h("div.compose", null,
      field({ name: "Text message", field: "text", enter: () => send(number) }),
      iconButton({ name: "Send", icon: "send", colour: "var(--f7-md-primary)", tap: () => send(number) }))] });

  const bubble = ({ id, text, time, outgoing }) => h("div.bubble-line", { class: outgoing && "bubble-own" },
    h("div.bubble", { name: `message ${text}`, role: "row", hold: () => phone.openDialog(`message/${id}`) }, text),
    h("div.bubble-time", null, format.moment(time)));

  const send = (number) => {
    const { screen, messages, now } = phone.state, text = (screen.draft.text ?? "").trim();
    if (!text) return;
    phone.add(messages, "m", { name_or_number: number, text, time: now, outgoing: true, read: true });
    Object.assign(screen.draft, { text: "" });
    screen.scroll = 0;
  };

  /* Choice of the receiver: a contact, or a number as typed. */
  const create = ({ contacts, screen }) => {
    const typed = (screen.draft.to ?? "").trim();
    const texts = ({ first_name, last_name, phone: number }) => `${first_name} ${last_name} ${number}`;
    const found = contacts.filter((contact) => phone.contains(texts(contact), typed));
    const start = (number) => {
      phone.closePage();
      phone.openThread(number);
    };
    return page({ title: "New message", body: [
      form(field({ label: "To", field: "to", icon: "person", enter: () => typed && start(numberFor(typed)) })),
      list(
        /^[+\d][\d\s-]{2,}$/.test(typed)
          && row({ name: `Send to ${typed}`, title: `Send to ${typed}`, icon: "dialpad", tap: () => start(typed) }),
        found.map((contact) => row({ name: phone.nameOf(contact.phone), title: phone.nameOf(contact.phone),
          subtitle: contact.phone,
            media: phone.face(phone.nameOf(contact.phone)),
              tap: () => start(contact.phone) })))] });
  };

  /* The number of the contact with the typed name, or what was typed. */
  const numberFor = (typed) => {
    const nameOf = ({ first_name, last_name }) => `${first_name} ${last_name}`.trim().toLowerCase();
    return phone.state.contacts.find((contact) => nameOf(contact) === typed.toLowerCase())?.phone ?? typed;
  };

  const deleteThread = (number) => {
    phone.state.messages = phone.state.messages.filter((message) => message.name_or_number !== number);
    if (phone.state.screen.page !== "main") phone.closePage();
    phone.toast("Conversation deleted");
  };

  const dialogs = {
    delete: (_, number) => confirmation({
      title: "Delete conversation?", text: `All messages with ${phone.nameOf(number)} will be deleted.`,
      confirm: () => deleteThread(number) }),
    menu: (_, number) => menu({ title: phone.nameOf(number), actions: [
      { name: "Delete", icon: "delete", tap: () => phone.openDialog(path("delete", number)) }] }),
    message: ({ messages }, id) => confirmation({
      title: "Delete message?", text: phone.find(messages, id).text, confirm: () => phone.remove(messages, id) }),
  };

  phone.app({ name: "Messages", icon: "chat", colour: "#00796b", pages: { main, thread, new: create }, dialogs });
}
