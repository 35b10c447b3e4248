"use strict";
/* Views: plain descriptions of elements, and the function that makes the page agree with them.
 *
 * h("div.row", {name, role, tap}, ...children) describes an element. Handlers (tap, hold, slide, enter) become
 * properties of the element, everything else attributes. An element with a name can be touched: it gets
 * data-name="<scope>/<name>", where the scope is the app, "keyboard", "shade" or "launcher".
 */
{
  const HANDLERS = ["tap", "hold", "slide", "enter"];

  phone.scope = "";

  window.h = (selector, properties, ...children) => {
    const [tag, ...classes] = selector.split(".");
    const { name, role, value, ...rest } = properties ?? {};
    const attributes = {}, handlers = {};
    if (classes.length) attributes.class = classes.join(" ");
    if (name !== undefined) Object.assign(attributes,
      { "data-name": `${phone.scope}/${name}`, "data-role": role ?? "button" });
    if (name !== undefined && value !== undefined) attributes["data-value"] = JSON.stringify(value);
    for (const [key, item] of Object.entries(rest)) {
      if (HANDLERS.includes(key)) handlers[key] = item;
      else if (key === "class") attributes.class = [attributes.class, item].filter(Boolean).join(" ");
      else if (item !== false && item !== null && item !== undefined) attributes[key] = item === true ? ""
        : String(item);
    }
    return { tag, attributes, handlers, children: children.flat(Infinity).filter((child) => child || child === 0) };
  };

  /* Make the children of an element agree with views, keeping the nodes that fit. */
  phone.patch = (element, views) => {
    views.forEach((view, at) => {
      const node = element.childNodes[at];
      if (node && fits(node, view)) update(node, view);
      else if (node) element.replaceChild(build(view), node);
      else element.appendChild(build(view));
    });
    while (element.childNodes.length > views.length) element.lastChild.remove();
  };

  const isText = (view) => typeof view !== "object";

  const fits = (node, view) => isText(view) ? node.nodeType === Node.TEXT_NODE
    : node.nodeType === Node.ELEMENT_NODE && node.localName === view.tag
      && node.getAttribute("data-name") === (view.attributes["data-name"] ?? null);

  const build = (view) => {
    if (isText(view)) return document.createTextNode(view);
    const element = document.createElement(view.tag);
    update(element, view);
    return element;
  };

  const update = (node, view) => {
    if (isText(view)) {
      if (node.data !== String(view)) node.data = view;
      return;
    }
    for (const { name } of [...node.attributes]) if (!(name in view.attributes)) node.removeAttribute(name);
    for (const [name, value] of Object.entries(view.attributes)) {
      if (node.getAttribute(name) !== value) node.setAttribute(name, value);
    }
    for (const handler of HANDLERS) node[handler] = view.handlers[handler];
    if (view.attributes.text !== undefined) updateText(node, view.attributes.text);
    else phone.patch(node, view.children);
  };

  /* Fields: the caret stays at the end, which is where the keyboard writes, and only a field in focus shows the end. */
  const updateText = (field, text) => {
    if (field.value !== text) field.value = text;
    field.setSelectionRange(text.length, text.length);
    field.scrollLeft = field.dataset.field === phone.state.screen.focus ? field.scrollWidth : 0;
  };
}
