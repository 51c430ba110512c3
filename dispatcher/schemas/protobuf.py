"""Decodes Protobuf with descriptors that protoc makes from the texts in the registry.

protoc runs in a separate process: whatever a text does to it, the replica continues. Protobuf's own parser bounds the
parsing of a message (100 levels deep); the size of its JSON is bounded here, while its values are made: each name of a
field or an enum's value is a new string of Python, and is written with each value.
"""

import subprocess
import sys
import tempfile
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from dispatcher.schemas.framing import UndecodableError, message_indexes
from dispatcher.schemas.values import MAX_DECODED_BYTES, duration_of, json_of, timestamp, too_large

COMPILE_SECONDS = 20.0
"""How long protoc may take for one schema."""

MAX_VALUES = 1_000_000
"""The most values in one message: two bytes can stand for a message with a thousand fields."""

MAX_IMPORT_DEPTH = 50

_MAIN = "registry-schema.proto"

_WRAPPERS = {
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
}
_AS_THE_LIBRARY = {f"google.protobuf.{name}" for name in ("Any", "Struct", "Value", "ListValue", "FieldMask", "Empty")}
"""Well-known types with a special JSON form (ProtoJSON), which the library writes."""


class ProtobufDecoder:
    """Decodes messages of one file.

    Fields have the names of the file. Fields without presence always appear, with their default if necessary; fields
    with presence appear only if the producer set them.

    Args:
        text: The file, as in the registry.
        references: The files that it imports, by the name in its imports.

    Raises:
        UndecodableError: protoc refuses the file; the message says why.

    *Thread*: any but Trio's, because construction runs protoc.
    """

    kind = "PROTOBUF"

    def __init__(self, text: str, references: Mapping[str, str] | None = None) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        files = _files(text, references or {})
        try:
            for file in files:
                self._pool.Add(file)
        except TypeError as error:
            raise UndecodableError(f"its Protobuf file is wrong: {error}") from error
        self._file = self._pool.FindFileByName(_MAIN)
        self._messages = [
            self._file.message_types_by_name[name.name]
            for name in descriptor_pb2.FileDescriptorProto.FromString(self._file.serialized_pb).message_type
        ]
        if not self._messages:
            raise UndecodableError("its Protobuf file has no message")
        self.name = self._messages[0].full_name

    def decode(
        self,
        content: bytes,
        indexes: bytes = b"",
        *,
        int64_strings: bool = False,
        avro_json: bool = False,  # noqa: ARG002 - of Avro
    ) -> bytes:
        """Return the message as JSON.

        Args:
            content: The message, preceded by its indexes if a schema id precedes it.
            indexes: The indexes, if a header holds them.
            int64_strings: Integers beyond 2^53 become strings.
            avro_json: Ignored.

        Raises:
            UndecodableError: the bytes do not fit the schema.
        """
        path, used = message_indexes(indexes or content)
        message = message_factory.GetMessageClass(self._descriptor(path))()
        try:
            message.ParseFromString(content if indexes else content[used:])
        except (DecodeError, UnicodeDecodeError) as error:
            raise UndecodableError(f"it does not fit its Protobuf message: {error}") from error
        return json_of(_Writer(self._pool).value_of(message), int64_strings=int64_strings)

    def _descriptor(self, path: Sequence[int]) -> Descriptor:
        among, found = self._messages, None
        for index in path:
            if not 0 <= index < len(among):
                raise UndecodableError(f"its Protobuf file has no message at {list(path)}")
            found = among[index]
            # Java counts the messages that the text declares. Python and Go also count the map entries that protoc
            # adds. The results differ for a message nested beside one with a map before it, and most producers use
            # Java.
            among = [nested for nested in found.nested_types if not nested.GetOptions().map_entry]
        if found is None:
            raise UndecodableError("its Protobuf message has no index")
        return found


class _Writer:
    """Turns one message into values that JSON can express.

    The library's own `json_format` would turn every 64-bit integer into a string.
    """

    def __init__(self, pool: descriptor_pool.DescriptorPool) -> None:
        self._pool = pool
        self._values = 0
        self._room_bytes = MAX_DECODED_BYTES
        """How much the JSON may still have, apart from what is written of the values themselves."""

    def value_of(self, message: Message) -> Any:
        name = message.DESCRIPTOR.full_name
        if name in _WRAPPERS:
            return message.value  # type: ignore[attr-defined]
        if name == "google.protobuf.Timestamp":
            nanos = message.seconds * 10**9 + message.nanos  # type: ignore[attr-defined]
            return timestamp(nanos, "nanos")
        if name == "google.protobuf.Duration":
            return duration_of(message.seconds, message.nanos)  # type: ignore[attr-defined]
        if name in _AS_THE_LIBRARY:
            try:
                self._count(message)
                return json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=self._pool)
            except UndecodableError:
                raise
            except Exception as error:
                raise UndecodableError(f"its {name} cannot be written as JSON: {error}") from error
        fields: dict[str, Any] = {}
        for field in message.DESCRIPTOR.fields:
            self._values += 1
            field_name = field.name
            if not field.has_presence or message.HasField(field_name):
                self._room_bytes -= len(field_name) + 3
                fields[field_name] = self._field(field, getattr(message, field_name))
        self._check()
        return fields

    def _check(self) -> None:
        if self._values > MAX_VALUES:
            raise UndecodableError(f"its Protobuf message has more than {MAX_VALUES} values")
        if self._room_bytes < 0:
            raise too_large()

    def _count(self, message: Message) -> None:
        """Count what the library is going to write of a message, including what is packed into each `Any`."""
        if message.DESCRIPTOR.full_name == "google.protobuf.Any":
            self._count_packed(message)
            return
        for field, value in message.ListFields():
            items: Iterable[Any] = (value,)
            held = field
            if field.is_repeated:
                items = value
                self._values += len(value)
                if field.message_type is not None and field.message_type.GetOptions().map_entry:
                    held = field.message_type.fields_by_name["value"]
                    items = (value[key] for key in value)
            self._values += 1
            self._room_bytes -= len(field.full_name if field.is_extension else field.name) + 3
            self._check()
            if held.message_type is not None:
                for item in items:
                    self._count(item)
            elif held.enum_type is not None:
                for item in items:
                    self._enum_name(held, item)

    def _count_packed(self, message: Any) -> None:
        if not message.ListFields():
            return
        # The bytes of a message within messages are copied for each of them.
        self._room_bytes -= len(message.value)
        self._check()
        kind = self._pool.FindMessageTypeByName(message.type_url.rpartition("/")[2])
        packed = message_factory.GetMessageClass(kind)()
        packed.ParseFromString(message.value)
        self._count(packed)

    def _enum_name(self, field: Any, value: int) -> str | int:
        found = field.enum_type.values_by_number.get(value)
        if found is None:
            return value
        name = str(found.name)
        self._room_bytes -= len(name) + 2
        if self._room_bytes < 0:
            raise too_large()
        return name

    def _field(self, field: Any, value: Any) -> Any:
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            content = kind.fields_by_name["value"]
            self._values += len(value)
            return {_map_key(key): self._one(content, value[key]) for key in value}
        if field.is_repeated:
            self._values += len(value)
            return [self._one(field, item) for item in value]
        return self._one(field, value)

    def _one(self, field: Any, value: Any) -> Any:
        if field.message_type is not None:
            return self.value_of(value)
        if field.enum_type is not None:
            return self._enum_name(field, value)
        return value


def _map_key(key: object) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _files(text: str, references: Mapping[str, str]) -> list[descriptor_pb2.FileDescriptorProto]:
    """Return descriptors of a file and of all its imports, each after the files that it imports itself.

    Confluent's serializer for Python registers base64 descriptors instead of texts, and Apicurio keeps them like that.
    """
    binary = {name: file for name, content in {**references, _MAIN: text}.items() if (file := _descriptor_of(content))}
    if not binary:
        return _compile(text, references)
    if _MAIN not in binary:
        raise UndecodableError("its Protobuf file is a text, and refers to files that are not")
    for name, file in binary.items():
        file.name = name
    others = dict.fromkeys(name for file in binary.values() for name in file.dependency if name not in binary)
    imports = "".join(f'import "{name}";\n' for name in others if '"' not in name and "\\" not in name)
    texts = {name: content for name, content in references.items() if name not in binary}
    files = _compile(f'syntax = "proto3";\n{imports}', texts)[:-1] if others else []
    done = {file.name for file in files}

    begun: set[str] = set()

    def add(file: descriptor_pb2.FileDescriptorProto, depth: int) -> None:
        if file.name in begun or depth > MAX_IMPORT_DEPTH:
            raise UndecodableError("its Protobuf file imports itself, or files that import files without end")
        begun.add(file.name)
        for name in file.dependency:
            if name not in done and name in binary:
                add(binary[name], depth + 1)
        done.add(file.name)
        files.append(file)

    add(binary[_MAIN], 0)
    return files


def _descriptor_of(content: str) -> descriptor_pb2.FileDescriptorProto | None:
    """Read a base64 descriptor; returns None for a text, which contains characters that base64 does not have."""
    try:
        return descriptor_pb2.FileDescriptorProto.FromString(b64decode(content, validate=True)) if content else None
    except (ValueError, DecodeError):
        return None


def _compile(text: str, references: Mapping[str, str]) -> list[descriptor_pb2.FileDescriptorProto]:
    """Run protoc; returns descriptors of a file and of all its imports, each after the files that it imports itself."""
    with tempfile.TemporaryDirectory(prefix="dispatcher-protoc-") as folder:
        for name, content in {**references, _MAIN: text}.items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise UndecodableError(f"its Protobuf file refers to {name!r}, which is not a relative name")
            file = Path(folder, *path.parts)
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(content)
            except (OSError, ValueError) as error:  # too long, or a file where another name needs a folder
                raise UndecodableError(f"its Protobuf file refers to {name[:40]!r}, which cannot be a file") from error
        output = Path(folder, "descriptors")
        # Anybody who registers schemas chooses these names, and `grpc_tools/__init__.py` may be one: Python must not
        # look for modules here, neither because it is the current folder of `-m` nor because of an empty entry in
        # PYTHONPATH.
        command = [sys.executable, "-P", "-m", "grpc_tools.protoc", f"-I{folder}"]
        command += [f"-I{resources.files('grpc_tools') / '_proto'}"]
        command += ["--include_imports", f"--descriptor_set_out={output}", f"{folder}/{_MAIN}"]
        try:
            done = subprocess.run(command, cwd="/", capture_output=True, timeout=COMPILE_SECONDS, check=False)  # noqa: S603 - no shell
        except subprocess.TimeoutExpired as error:
            raise UndecodableError(f"protoc took more than {COMPILE_SECONDS:g} s for its Protobuf file") from error
        if done.returncode:
            lines = [line for line in done.stderr.decode(errors="replace").splitlines() if ".proto:" in line]
            reason = "; ".join(lines).replace(f"{folder}/", "")[:500]
            raise UndecodableError(f"its Protobuf file is wrong: {reason or 'protoc says nothing more'}")
        return list(descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes()).file)
