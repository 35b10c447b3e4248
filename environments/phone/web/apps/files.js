"use strict";
{
  const { page, list, row, iconButton, field, form, searchField, filters, empty, heading, confirmation, menu,
    options, dialog, cancel } = widgets;

  const FOLDERS = { Download: "download", Documents: "description", Pictures: "image", Music: "music_note" };
  const ICONS = { pdf: "picture_as_pdf", docx: "description", txt: "article", xlsx: "table_chart", png: "image",
    jpg: "image", mp3: "audio_file", ogg: "audio_file", zip: "folder_zip", apk: "android" };

  const icon = ({ name }) => ICONS[name.split(".").at(-1).toLowerCase()] ?? "insert_drive_file";
  const size = ({ size_kb }) => size_kb < 1000 ? `${size_kb} kB` : `${(size_kb / 1000).toFixed(1)} MB`;
  const ORDERS = {
    "Sort by name": phone.by(({ name }) => name.toLowerCase()),
    "Sort by size": phone.by(({ size_kb }) => size_kb, -1),
  };

  const fileRow = (file) => row({ name: file.name, title: file.name, subtitle: size(file), icon: icon(file),
    tap: () => phone.openPage(`file/${file.id}`), hold: () => phone.openDialog(`menu/${file.id}`) });

  const main = ({ files, screen: { draft } }) => {
    const { query } = draft;
    const folderRow = ([name, glyph]) => {
      const count = files.filter((file) => file.folder === name).length;
      return row({ name, title: name, subtitle: count === 1 ? "1 file" : `${count} files`, icon: glyph,
        tap: () => phone.openPage(`folder/${name}`) });
    };
    const found = files.filter((file) => phone.contains(file.name, query));
    return page({
      search: searchField({ label: "Search files" }),
      body: query ? [found.length > 0 ? list(found.map(fileRow)) : empty("No files")]
        : [heading("Folders"), list(Object.entries(FOLDERS).map(folderRow))] });
  };

  const folder = ({ files, screen: { draft } }, name) => {
    const order = draft.order ?? "Sort by name";
    const found = files.filter((file) => file.folder === name).sort(ORDERS[order]);
    return page({
      title: name,
      body: [filters(Object.keys(ORDERS), "order"),
             found.length > 0 ? list(found.map(fileRow)) : empty("No files")] });
  };

  const actions = (id) => [
    { name: "Rename", icon: "edit",
      tap: () => phone.openDialog(`rename/${id}`, { file_name: phone.find(phone.state.files, id).name }) },
    { name: "Move", icon: "drive_file_move", tap: () => phone.openDialog(`move/${id}`) },
    { name: "Delete", icon: "delete", tap: () => phone.openDialog(`delete/${id}`) },
  ];

  const file = ({ files }, id) => {
    const row = phone.find(files, id);
    return page({
      title: "", actions: actions(id).map(iconButton),
      body: [h("div.portrait", null, h("div.preview", null, widgets.icon(icon(row))),
        h("div.portrait-name", null, row.name)),
             list(widgets.fact({ title: row.folder, subtitle: "Folder", icon: FOLDERS[row.folder] }),
               widgets.fact({ title: size(row), subtitle: "Size", icon: "data_usage" }))] });
  };

  const rename = (id) => {
    const { files, screen: { draft } } = phone.state, name = draft.file_name.trim(), row = phone.find(files, id);
    if (!name) return phone.toast("Enter a name");
    if (files.some((other) => other.id !== id && other.folder === row.folder
      && other.name === name)) return phone.toast("A file of this name exists");
    row.name = name;
    phone.closeDialog();
  };

  const dialogs = {
    menu: ({ files }, id) => menu({ title: phone.find(files, id).name, actions: actions(id) }),
    rename: (_, id) => dialog({ title: "Rename", buttons: [cancel, { name: "Save", tap: () => rename(id) }],
      body: [form(field({ label: "Name", field: "file_name", enter: () => rename(id) }))] }),
    move: ({ files }, id) => options({ title: "Move to", options: Object.keys(FOLDERS),
      value: phone.find(files, id).folder, choose: (name) => { phone.find(files, id).folder = name; } }),
    delete: ({ files }, id) => confirmation({ title: "Delete file?",
      text: `${phone.find(files, id).name} will be deleted.`, confirm: () => {
      phone.remove(files, id);
      if (phone.state.screen.page.startsWith("file/")) phone.closePage();
      phone.toast("File deleted");
    } }),
  };

  phone.app({ name: "Files", icon: "folder", colour: "#0277bd", pages: { main, folder, file }, dialogs });
}
