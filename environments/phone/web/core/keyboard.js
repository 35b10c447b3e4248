"use strict";
/* The on-screen keyboard: types at the end of the field in focus. */
{
  const LAYOUTS = {
    letters: ["qwertyuiop", "asdfghjkl", "zxcvbnm"],
    capitals: ["QWERTYUIOP", "ASDFGHJKL", "ZXCVBNM"],
    symbols: ["1234567890", "@#$_&-+()/", "*\"':;!?"],
  };

  const typeKey = (character) => () => {
    phone.typeText(character);
    if (phone.state.screen.keyboard === "capitals") phone.state.screen.keyboard = "letters";
  };

  const erase = () => {
    const { draft, focus } = phone.state.screen;
    draft[focus] = (draft[focus] ?? "").slice(0, -1);
  };

  /* A long press of backspace: empty the field. */
  const clear = () => { phone.state.screen.draft[phone.state.screen.focus] = ""; };

  const switchTo = (layout) => () => { phone.state.screen.keyboard = layout; };

  const key = (character) => h("div.key", { name: character, role: "key", tap: typeKey(character) }, character);
  const special = (name, view, tap, size = "key-wide", hold = null) => h(`div.key.${size}`,
    { name, role: "key", tap, hold }, view);

  phone.keyboard = ({ screen: { keyboard } }) => {
    if (!keyboard) return [];
    phone.scope = "keyboard";
    const [first, second, third] = LAYOUTS[keyboard].map((row) => [...row].map(key));
    const shift = keyboard === "symbols" ? h("div.key.key-wide.key-blank")
      : special("shift", widgets.icon("keyboard_capslock"), switchTo(keyboard === "letters" ? "capitals" : "letters"));
    const other = keyboard === "symbols" ? special("abc", "abc", switchTo("letters"))
      : special("?123", "?123", switchTo("symbols"));
    const rows = [first, second,
      [shift, ...third, special("backspace", widgets.icon("backspace"), erase, "key-wide", clear)],
      [other, key(","), special("space", "", typeKey(" "), "key-space"), key("."),
       special("enter", widgets.icon("keyboard_return"), phone.enter)]];
    return [h("div.keyboard", null, rows.map((row) => h("div.keys", null, row)))];
  };
}
