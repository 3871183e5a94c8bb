package famulus.bench;

import static java.nio.charset.StandardCharsets.UTF_8;

import java.io.IOException;
import java.nio.file.Path;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.PipelineOptions;
import org.apache.flink.configuration.RestartStrategyOptions;
import org.apache.flink.configuration.StateBackendOptions;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.core.execution.SavepointFormatType;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;

/** The standard work on Apache Flink: each user's last ten minutes, ten rules, alerts.  Set by BENCH_ variables of the environment. */
public final class Fraud {
    static final TypeInformation<byte[]> BYTES = TypeInformation.of(byte[].class);
    /** A user and the JSON of a transaction, or of an alert. */
    static final TypeInformation<Tuple2<String, byte[]>> KEYED = Types.TUPLE(Types.STRING, BYTES);

    /** The user is the record's key: what goes on to the keyed function is copied, not parsed and written anew. */
    static final class Keyed implements KafkaRecordDeserializationSchema<Tuple2<String, byte[]>> {
        private final Tuple2<String, byte[]> reused = new Tuple2<>();

        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Tuple2<String, byte[]>> out) {
            reused.setFields(new String(record.key(), UTF_8), record.value());
            out.collect(reused);
        }

        @Override
        public TypeInformation<Tuple2<String, byte[]>> getProducedType() {
            return KEYED;
        }
    }

    static final class Judge extends KeyedProcessFunction<String, Tuple2<String, byte[]>, Tuple2<String, byte[]>> {
        private transient Work.History added;
        private transient ValueState<byte[]> history;

        @Override
        public void open(OpenContext context) {
            added = new Work.History();
            history = getRuntimeContext().getState(new ValueStateDescriptor<>("history", BYTES));
        }

        @Override
        public void processElement(Tuple2<String, byte[]> in, Context context, Collector<Tuple2<String, byte[]>> out)
                throws IOException {
            Work.Transaction tx = Work.parse(in.f1);
            added.add(history.value(), tx);
            history.update(added.kept);
            for (Work.Rule rule : Work.RULES) {
                if (rule.when().fires(tx, added.inWindow)) {
                    out.collect(Tuple2.of(in.f0, Work.alert(rule, tx)));
                }
            }
        }
    }

    static Configuration configuration(String folder) {
        Configuration c = new Configuration();
        c.set(StateBackendOptions.STATE_BACKEND, Work.variable("BENCH_STORE").equals("rocksdb") ? "rocksdb" : "hashmap");
        c.set(CheckpointingOptions.CHECKPOINT_STORAGE, "filesystem");
        c.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, folder + "/checkpoints");
        c.set(CheckpointingOptions.INCREMENTAL_CHECKPOINTS, true); // of RocksDB; the heap has none
        c.set(PipelineOptions.OBJECT_REUSE, true);
        c.set(RestartStrategyOptions.RESTART_STRATEGY, "none");
        return c;
    }

    /** Its last commit comes late: the connector does not interrupt a poll for it, and one without records lasts 10 s. */
    static KafkaSource<Tuple2<String, byte[]>> transactions() {
        return KafkaSource.<Tuple2<String, byte[]>>builder()
            .setBootstrapServers(Work.variable("BENCH_BOOTSTRAP"))
            .setGroupId(Work.variable("BENCH_APP_ID"))
            .setTopics(Work.variable("BENCH_INPUT"))
            .setStartingOffsets(OffsetsInitializer.earliest())
            .setDeserializer(new Keyed())
            .setProperty("commit.offsets.on.checkpoint", "true")
            .setProperty(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed")
            .setProperty(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG, String.valueOf(4 << 20))
            .setProperty(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, "8000")
            .build();
    }

    static KafkaSink<Tuple2<String, byte[]>> alerts(boolean exactlyOnce) {
        String topic = Work.variable("BENCH_ALERTS");
        Properties p = new Properties();
        p.put(ProducerConfig.BATCH_SIZE_CONFIG, 1 << 20);
        p.put(ProducerConfig.LINGER_MS_CONFIG, Integer.parseInt(Work.variable("BENCH_LINGER_MS")));
        p.put(ProducerConfig.MAX_REQUEST_SIZE_CONFIG, 4 << 20);
        p.put(ProducerConfig.TRANSACTION_TIMEOUT_CONFIG, 60_000); // the default, an hour, is more than a broker allows
        return KafkaSink.<Tuple2<String, byte[]>>builder()
            .setBootstrapServers(Work.variable("BENCH_BOOTSTRAP"))
            .setKafkaProducerConfig(p)
            .setDeliveryGuarantee(exactlyOnce ? DeliveryGuarantee.EXACTLY_ONCE : DeliveryGuarantee.AT_LEAST_ONCE)
            .setTransactionalIdPrefix(Work.variable("BENCH_APP_ID"))
            .setRecordSerializer((alert, context, at) -> new ProducerRecord<>(topic, alert.f0.getBytes(UTF_8), alert.f1))
            .build();
    }

    public static void main(String[] args) throws Exception {
        String folder = Path.of(Work.variable("BENCH_STATE_DIR")).toUri().toString();
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(1, configuration(folder));
        env.enableCheckpointing(Long.parseLong(Work.variable("BENCH_COMMIT_MS")), CheckpointingMode.EXACTLY_ONCE);
        env.fromSource(transactions(), WatermarkStrategy.noWatermarks(), "transactions")
            .keyBy(tx -> tx.f0, Types.STRING)
            .process(new Judge(), KEYED)
            .sinkTo(alerts(Work.variable("BENCH_GUARANTEE").equals("exactly_once")));
        JobClient job = env.executeAsync("fraud");
        // The source's offsets of a checkpoint may be there before its alerts are: whoever ends us waits for those, too.
        Runtime.getRuntime().addShutdownHook(new Thread(
            () -> job.stopWithSavepoint(false, folder + "/savepoints", SavepointFormatType.NATIVE)
                .orTimeout(15, TimeUnit.SECONDS)
                .join()));
        try {
            job.getJobExecutionResult().get();
        } catch (ExecutionException failed) {
            failed.printStackTrace();
            Runtime.getRuntime().halt(1);
        }
    }
}
