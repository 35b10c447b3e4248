"""Tasks in the app Messages."""

from __future__ import annotations

from random import Random

from .. import words
from ..generate import add
from ..state import Document
from ..template import Parameters, Template
from ..user import Actions, User
from .contacts import new_person, some_contact


def new_text(state: Document, rng: Random) -> str:
    """Return a text that no message has."""
    known = {message["text"] for message in state["messages"]}
    return rng.choice([text for text in words.MESSAGES if text not in known])


def send(state: Document, number: str, text: str) -> None:
    """Add an outgoing message to a state."""
    add(state, "messages", name_or_number=number, text=text, time=state["now"], outgoing=True, read=True)


def name_of(state: Document, number: str) -> str:
    """Return the full name of the contact with a number."""
    contact = next(contact for contact in state["contacts"] if contact["phone"] == number)
    return f"{contact['first_name']} {contact['last_name']}"


def open_thread(user: User, name: str) -> Actions:
    """Open the conversation with a contact."""
    yield from user.open("Messages")
    yield from user.tap(f"Messages/{name}")


class SendTask(Template):
    """Task that is done when the text `message` was sent to `number`."""

    apps = ("Messages",)
    complexity = 1.4

    def solve(self, state: Document) -> None:
        send(state, self.params["number"], self.params["message"])

    def script(self, user: User) -> Actions:
        yield from user.open("Messages")
        yield from user.tap("Messages/New message")
        yield from user.enter("Messages/To", self.params["number"])
        yield from user.type("Messages/Text message", self.params["message"])
        yield from user.tap("Messages/Send")


class SimpleSmsSend(SendTask):
    """Send a message to a number without a thread."""

    text = "Send a text message to {number} with the message: {message}"

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {**new_person(state, rng), "message": new_text(state, rng)}


class SimpleSmsReply(SendTask):
    """Reply in an existing thread."""

    text = "Reply to {name} with the message: {message}"

    def prepare(self, state: Document, rng: Random) -> Parameters:
        number = rng.choice(state["messages"])["name_or_number"]
        return {"number": number, "name": name_of(state, number), "message": new_text(state, rng)}

    def script(self, user: User) -> Actions:
        yield from open_thread(user, self.params["name"])
        yield from user.type("Messages/Text message", self.params["message"])
        yield from user.tap("Messages/Send")


class SimpleSmsReplyMostRecent(SimpleSmsReply):
    """Reply to the last message that came in."""

    text = "Reply to the most recent text message with the message: {message}"

    def prepare(self, state: Document, rng: Random) -> Parameters:
        newest = max(state["messages"], key=lambda message: message["time"])
        newest["outgoing"] = False
        number = newest["name_or_number"]
        return {"number": number, "name": name_of(state, number), "message": new_text(state, rng)}


class SimpleSmsResend(SendTask):
    """Send the last outgoing message of a thread again."""

    text = "Resend the message I just sent to {name}"
    complexity = 1.6

    def prepare(self, state: Document, rng: Random) -> Parameters:
        contact = some_contact(state, rng)
        message = new_text(state, rng)
        send(state, contact["number"], message)
        return {**contact, "message": message}


class SimpleSmsSendReceivedAddress(SendTask):
    """Pass an address from one person's message on to another person."""

    text = "Send {name} the address that {sender} sent me"
    complexity = 2.0

    def prepare(self, state: Document, rng: Random) -> Parameters:
        receiver, sender = rng.sample(state["contacts"], 2)
        address = f"{rng.randint(1, 99)} {rng.choice(('Mill Lane', 'Park Street', 'Hill Road', 'Lake Avenue'))}"
        incoming = {"text": address, "time": state["now"], "outgoing": False, "read": False}
        add(state, "messages", name_or_number=sender["phone"], **incoming)
        names = {"name": name_of(state, receiver["phone"]), "sender": name_of(state, sender["phone"])}
        return {**names, "number": receiver["phone"], "message": address}


class MessagesDeleteThread(Template):
    """Delete all messages of one person."""

    text = "Delete the conversation with {name}"
    apps = ("Messages",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        number = rng.choice(state["messages"])["name_or_number"]
        return {"number": number, "name": name_of(state, number)}

    def solve(self, state: Document) -> None:
        number = self.params["number"]
        state["messages"] = [message for message in state["messages"] if message["name_or_number"] != number]

    def script(self, user: User) -> Actions:
        yield from open_thread(user, self.params["name"])
        yield from user.tap("Messages/Delete conversation")
        yield from user.tap("Messages/dialog/Delete")


class MessagesLastFrom(Template):
    """Answer with the text of the last message in a thread."""

    text = "What does the last message from {name} say?"
    apps = ("Messages",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        incoming = {message["name_or_number"]: message for message in state["messages"] if not message["outgoing"]}
        message = rng.choice(list(incoming.values()) or [self._receive(state, rng)])
        return {"name": name_of(state, message["name_or_number"]), "message": message["text"]}

    def _receive(self, state: Document, rng: Random) -> Document:
        contact, text = some_contact(state, rng), new_text(state, rng)
        incoming = {"time": state["now"], "outgoing": False, "read": False}
        add(state, "messages", name_or_number=contact["number"], text=text, **incoming)
        newest: Document = state["messages"][-1]
        return newest

    @property
    def answer(self) -> str:
        return str(self.params["message"])

    def script(self, user: User) -> Actions:
        yield from open_thread(user, self.params["name"])
