//! The part of ONNX's schema (`onnx.proto3`) that an exported network needs, and its encoding as protobuf. The numbers are those of the
//! schema's fields.

/// `TensorProto.DataType.FLOAT`.
pub const FLOAT: i64 = 1;
/// `TensorProto.DataType.INT64`.
pub const INT64: i64 = 7;

/// A message: fields one after the other.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

/// How a field is encoded.
#[derive(Clone, Copy)]
enum WireType {
    Varint = 0,
    Length = 2,
    Fixed32 = 5,
}

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u32, wire_type: WireType) {
        self.varint(u64::from(field << 3 | wire_type as u32));
    }

    fn int(mut self, field: u32, value: i64) -> Self {
        self.key(field, WireType::Varint);
        // A negative number is its two's complement.
        self.varint(value as u64);
        self
    }

    fn ints(self, field: u32, values: &[i64]) -> Self {
        values.iter().fold(self, |message, value| message.int(field, *value))
    }

    fn float(mut self, field: u32, value: f32) -> Self {
        self.key(field, WireType::Fixed32);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u32, bytes: &[u8]) -> Self {
        self.key(field, WireType::Length);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(self, field: u32, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    fn messages<T>(self, field: u32, of: &[T], encoded: impl Fn(&T) -> Message) -> Self {
        of.iter().fold(self, |message, part| message.bytes(field, &encoded(part).0))
    }
}

/// `ModelProto`: the whole file.
#[derive(Debug)]
pub struct Model {
    /// Version of the file format.
    pub format: i64,
    /// Version of the operators.
    pub operators: i64,
    /// The network.
    pub graph: OnnxGraph,
    /// Properties for people and programs: name and value.
    pub properties: Vec<(String, String)>,
}

impl Model {
    /// The bytes of the file.
    pub fn encoded(&self) -> Vec<u8> {
        // The empty domain is that of ONNX's own operators.
        let operators = Message::default().text(1, "").int(2, self.operators);
        Message::default()
            .int(1, self.format)
            .text(2, "touchline")
            .text(3, env!("CARGO_PKG_VERSION"))
            .bytes(7, &self.graph.encoded().0)
            .bytes(8, &operators.0)
            .messages(14, &self.properties, |(name, value)| Message::default().text(1, name).text(2, value))
            .0
    }
}

/// `GraphProto`.
#[derive(Debug)]
pub struct OnnxGraph {
    /// Name of the network.
    pub name: String,
    /// Operators, in the order of computation.
    pub nodes: Vec<Node>,
    /// Constants.
    pub constants: Vec<Constant>,
    /// The input.
    pub input: Batch,
    /// The outputs.
    pub outputs: Vec<Batch>,
}

impl OnnxGraph {
    fn encoded(&self) -> Message {
        Message::default()
            .messages(1, &self.nodes, Node::encoded)
            .text(2, &self.name)
            .messages(5, &self.constants, Constant::encoded)
            .bytes(11, &self.input.encoded().0)
            .messages(12, &self.outputs, Batch::encoded)
    }
}

/// `NodeProto`: one operator.
#[derive(Debug)]
pub struct Node {
    /// Names of the values that it reads.
    pub inputs: Vec<String>,
    /// Name of the value that it computes.
    pub output: String,
    /// Name of the operator.
    pub operator: String,
    /// Its parameters.
    pub attributes: Vec<Attribute>,
}

impl Node {
    fn encoded(&self) -> Message {
        self.inputs
            .iter()
            .fold(Message::default(), |message, name| message.text(1, name))
            .text(2, &self.output)
            .text(4, &self.operator)
            .messages(5, &self.attributes, Attribute::encoded)
    }
}

/// `AttributeProto`.
#[derive(Debug)]
pub struct Attribute {
    name: String,
    value: AttributeValue,
}

#[derive(Debug)]
enum AttributeValue {
    Float(f32),
    Int(i64),
    Ints(Vec<i64>),
}

impl Attribute {
    /// A real number.
    pub fn float(name: &str, value: f32) -> Self {
        Self { name: name.into(), value: AttributeValue::Float(value) }
    }

    /// A whole number.
    pub fn int(name: &str, value: i64) -> Self {
        Self { name: name.into(), value: AttributeValue::Int(value) }
    }

    /// A list of whole numbers.
    pub fn ints(name: &str, values: &[i64]) -> Self {
        Self { name: name.into(), value: AttributeValue::Ints(values.into()) }
    }

    fn encoded(&self) -> Message {
        let message = Message::default().text(1, &self.name);
        // The last field is `AttributeProto.AttributeType`.
        match &self.value {
            AttributeValue::Float(value) => message.float(2, *value).int(20, 1),
            AttributeValue::Int(value) => message.int(3, *value).int(20, 2),
            AttributeValue::Ints(values) => message.ints(8, values).int(20, 7),
        }
    }
}

/// `TensorProto`.
#[derive(Debug)]
pub struct Constant {
    /// Name of the value.
    pub name: String,
    /// [`FLOAT`] or [`INT64`].
    pub data_type: i64,
    /// Shape.
    pub dims: Vec<i64>,
    /// The values, row-major, little-endian.
    pub data: Vec<u8>,
}

impl Constant {
    fn encoded(&self) -> Message {
        Message::default().ints(1, &self.dims).int(2, self.data_type).text(8, &self.name).bytes(9, &self.data)
    }
}

/// `ValueInfoProto`: an input or output, any number of `f32` tensors of one shape.
#[derive(Debug)]
pub struct Batch {
    /// Name of the value.
    pub name: String,
    /// Shape of one.
    pub dims: Vec<usize>,
}

impl Batch {
    fn encoded(&self) -> Message {
        let any = Message::default().text(2, "batch");
        let shape =
            Message::default().bytes(1, &any.0).messages(1, &self.dims, |n| Message::default().int(1, *n as i64));
        let tensor = Message::default().int(1, FLOAT).bytes(2, &shape.0);
        let of_tensor = Message::default().bytes(1, &tensor.0);
        Message::default().text(1, &self.name).bytes(2, &of_tensor.0)
    }
}
