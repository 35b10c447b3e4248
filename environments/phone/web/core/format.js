"use strict";
/* Dates, times and amounts as texts. Dates are "2023-10-15", times "15:34", amounts cents. */
window.format = (() => {
  const MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December"];
  const DAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
  const two = (number) => String(number).padStart(2, "0");
  const utc = (date) => new Date(`${date}T00:00:00Z`);

  const weekday = (date) => DAYS[(utc(date).getUTCDay() + 6) % 7];
  const monthName = (month) => `${MONTHS[Number(month.slice(5, 7)) - 1]} ${month.slice(0, 4)}`;
  const shortMonth = (month) => `${monthName(month).slice(0, 3)} ${month.slice(0, 4)}`;
  const addMonths = (month, count) => {
    const months = Number(month.slice(0, 4)) * 12 + Number(month.slice(5, 7)) - 1 + count;
    return `${Math.floor(months / 12)}-${two(months % 12 + 1)}`;
  };
  const daysOf = (month) => new Date(Date.UTC(Number(month.slice(0, 4)), Number(month.slice(5, 7)), 0)).getUTCDate();

  /* "Sun, Oct 15" */
  const day = (date) => date
    ? `${weekday(date)}, ${MONTHS[Number(date.slice(5, 7)) - 1].slice(0, 3)} ${Number(date.slice(8, 10))}` : "";
  /* "Oct 15, 2023" */
  const longDay = (date) => date
    ? `${MONTHS[Number(date.slice(5, 7)) - 1].slice(0, 3)} ${Number(date.slice(8, 10))}, ${date.slice(0, 4)}` : "";
  const today = () => phone.state.now.slice(0, 10);
  const clock = () => phone.state.now.slice(11, 16);
  const money = (cents) => `$${Math.floor(cents / 100)}.${two(cents % 100)}`;
  /* "01:05:09" */
  const duration = (seconds) => [seconds / 3600, seconds / 60 % 60,
    seconds % 60].map((part) => two(Math.floor(part))).join(":");
  /* The time of a message or file: only the clock today, otherwise the day. */
  const moment = (time) => time.slice(0, 10) === today() ? time.slice(11, 16) : day(time.slice(0, 10));

  return { MONTHS, DAYS, two, weekday, monthName, shortMonth, addMonths, daysOf, day, longDay, today, clock, money,
    duration, moment };
})();
